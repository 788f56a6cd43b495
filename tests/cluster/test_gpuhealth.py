"""GPU health on a real API: the marks of a quarantine, and the chart's repair Jobs with the chart's rights."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import helm_python as helm
import pytest
import yaml
from chart_lab import Lab
from longhaul_core.clock import SystemClock
from longhaul_core.cluster.kubernetes import KubernetesCluster, KubernetesOptions
from longhaul_core.errors import PermissionDenied
from longhaul_gpuhealth.adapters.hooks import HookCall, HookState
from longhaul_gpuhealth.adapters.job_hook import JobHook, load_job_template
from longhaul_gpuhealth.adapters.marks import SESSION, Marker
from longhaul_gpuhealth.domain.model import Remedy
from longhaul_gpuhealth.domain.record import Origin, Quarantine

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
CHART = Path(__file__).resolve().parents[2] / "charts" / "longhaul-gpuhealth"


@dataclass
class Repairs:
    """A namespace for repair Jobs, a node, and what the chart makes for them."""

    lab: Lab
    node: str
    documents: dict[tuple[str, str], dict[str, object]]

    def template(self, folder: Path, remedy: Remedy) -> Path:
        text = self.documents["ConfigMap", "longhaul-gpuhealth-repair"]["data"][f"{remedy.name.lower()}.yaml"]  # type: ignore[index]
        path = folder / f"{remedy.name}.yaml"
        path.write_text(text)
        return path

    def install(self, *kinds: str) -> None:
        for (kind, _), document in self.documents.items():
            if kind in kinds:
                self.lab.call("POST", self.lab.path(kind), document)

    def as_service(self, folder: Path) -> KubernetesCluster:
        """The cluster with the rights of the chart's service account."""
        caller = self.lab.as_account("longhaul-gpuhealth")
        config = {
            "clusters": [{"name": "c", "cluster": {"server": caller.server, "insecure-skip-tls-verify": True}}],
            "users": [{"name": "u", "user": {"token": caller.token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path = folder / "service-kubeconfig"
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **config}))
        return KubernetesCluster.open(KubernetesOptions(kubeconfig=str(path)), SystemClock())


@pytest.fixture
def repairs(kubeconfig: Path) -> Iterator[Repairs]:
    lab = Lab(kubeconfig, f"longhaul-repair-{uuid.uuid4().hex[:8]}")
    lab.create_namespace("privileged")
    node = f"node-{lab.namespace}"
    lab.call("POST", lab.path("Node"), {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
    values = {"nodeWork": {"namespace": lab.namespace}, "repair": {"reset": True, "reboot": True}}
    with helm.Chart.load(CHART) as chart:
        files = chart.render(values, name="longhaul", namespace=lab.namespace)
    documents = [
        one for path, text in files.items() if path.endswith(".yaml") for one in yaml.safe_load_all(text) if one
    ]
    yield Repairs(lab, node, {(one["kind"], one["metadata"]["name"]): one for one in documents})
    lab.call("DELETE", lab.path("Node", node))
    lab.call("DELETE", lab.path("Namespace", lab.namespace))
    for kind in ("ClusterRole", "ClusterRoleBinding"):
        for name in lab.names(kind):
            if name.startswith(f"{lab.namespace}-"):
                lab.call("DELETE", lab.path(kind, name))


async def test_shipped_repair_jobs_are_made_once_with_the_charts_rights_alone(repairs: Repairs, tmp_path: Path) -> None:
    repairs.install("ServiceAccount")
    cluster = repairs.as_service(tmp_path)
    reset = JobHook(cluster, load_job_template(repairs.template(tmp_path, Remedy.RESET)))
    call = HookCall(repairs.node, uuid.uuid4().hex, Remedy.RESET, "XID 48 on GPU 0", ("GPU-1",))
    with pytest.raises(PermissionDenied):
        await reset.advance(call)
    repairs.install("Role", "RoleBinding")
    for remedy in (Remedy.RESET, Remedy.REBOOT):
        hook = JobHook(cluster, load_job_template(repairs.template(tmp_path, remedy)))
        call = HookCall(repairs.node, uuid.uuid4().hex, remedy, "XID 48 on GPU 0", ("GPU-1",))
        for _ in range(2):
            assert (await hook.advance(call)).state is HookState.UNDER_WAY
        made = repairs.lab.get("Job", call.name)
        assert made["spec"]["template"]["spec"]["nodeName"] == repairs.node
    assert len(repairs.lab.names("Job")) == 2
    await cluster.close()


async def test_marks_are_put_on_and_taken_off_with_the_charts_rights(repairs: Repairs, tmp_path: Path) -> None:
    repairs.install("ServiceAccount", "ClusterRole", "ClusterRoleBinding")
    cluster = repairs.as_service(tmp_path)
    marker = Marker(cluster, SystemClock())
    quarantine = Quarantine("session-1", Origin.VERDICT, 0.0, "XID 79 on GPU 0", "gpuhealth")
    await marker.mark(repairs.node, quarantine)
    node = repairs.lab.get("Node", repairs.node)
    assert node["spec"]["unschedulable"] is True
    assert node["metadata"]["annotations"][SESSION] == "session-1"
    assert [one["status"] for one in node["status"]["conditions"] if one["type"] == "GpuHealthy"] == ["False"]
    await marker.unmark(repairs.node, "session-1")
    node = repairs.lab.get("Node", repairs.node)
    assert "unschedulable" not in node["spec"]
    assert SESSION not in node["metadata"].get("annotations", {})
    await cluster.close()
