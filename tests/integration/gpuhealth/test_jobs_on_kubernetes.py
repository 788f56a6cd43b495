"""A node is repaired by a Job of a Kubernetes API; a controller of Jobs is played."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from fakekube import FakeKubernetes
from longhaul.gpuhealth.v1 import node_health_pb2 as pb
from longhaul.gpuhealth.v1 import node_health_pb2_grpc
from longhaul_core.clock import SystemClock
from longhaul_core.rpc.client import connect
from longhaul_core.rpc.server import running_service
from longhaul_gpuhealth.adapters.marks import SESSION
from longhaul_gpuhealth.app import build
from longhaul_gpuhealth.exporter.fleet import Fleet
from longhaul_gpuhealth.exporter.scenario import Scenario
from longhaul_gpuhealth.exporter.server import ExporterServer
from longhaul_gpuhealth.settings import GpuHealthSettings

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
EVENTS = [{"name": "fatal", "node": "n0", "gpu": 0, "xid": 48}]
SCENARIO = Scenario.model_validate({"nodes": {"n[0-3]": {"gpus": 1}}, "events": EVENTS})
TEMPLATE = """
apiVersion: batch/v1
kind: Job
metadata: {namespace: repairs}
spec: {template: {spec: {containers: [{name: reset, image: "tools:1", command: [reset, "@gpu_uuids@"]}]}}}
"""


@dataclass
class Kube:
    """The API, the exporters of its nodes and gpuhealth."""

    api: FakeKubernetes
    stub: Any
    fleet: Fleet
    server: ExporterServer

    def break_gpu(self) -> None:
        assert self.fleet.trigger("fatal", self.server._now())

    async def health(self) -> pb.NodeHealth:
        return await self.stub.GetNodeHealth(pb.GetNodeHealthRequest(name="nodes/n0"))

    async def is_in(self, *states: int) -> bool:
        nodes = (await self.stub.ListNodeHealth(pb.ListNodeHealthRequest())).nodes
        return len(nodes) == 4 and all(one.state in states for one in nodes if one.node == "n0")

    def jobs(self) -> list[dict[str, Any]]:
        return self.api.objects.all("jobs", "repairs")

    def end_job(self, type_: str, **condition: str) -> None:
        [job] = self.jobs()
        status = {"conditions": [{"type": type_, "status": "True", **condition}]}
        self.api.objects.replace("jobs", {**job, "status": status})


@pytest.fixture
async def kube(tmp_path: Path) -> AsyncIterator[Kube]:
    fleet = Fleet(SCENARIO)
    server = ExporterServer(fleet, SystemClock())
    runner = web.AppRunner(server.application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=0.1).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/nodes/{{}}/metrics"
    api = FakeKubernetes()
    await api.start()
    api.objects.create("namespaces", "", {"metadata": {"name": "repairs"}})
    for name in SCENARIO.nodes:
        annotations = {"longhaul.dev/exporter-url": url.format(name)}
        devices = {"nvidia.com/gpu": "1"}
        status = {
            "capacity": devices,
            "allocatable": devices,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        }
        node = {"metadata": {"name": name, "annotations": annotations}, "spec": {}, "status": status}
        api.objects.create("nodes", "", node)
    template = tmp_path / "job.yaml"
    template.write_text(TEMPLATE)
    kubeconfig = api.write_kubeconfig(tmp_path / "kubeconfig")
    settings = GpuHealthSettings(
        listen_address="127.0.0.1:0",
        metrics_address="",
        data_dir=tmp_path,
        cluster_url=f"kubernetes://?kubeconfig={kubeconfig}",
        scrape_interval_seconds=0.2,
        recovery_seconds=0.2,
        repair_poll_seconds=0.05,
        reset_job_template=template,
        shutdown_grace_seconds=2.0,
    )
    async with running_service(settings, build) as address:
        channel = connect(address)
        yield Kube(api, node_health_pb2_grpc.NodeHealthServiceStub(channel), fleet, server)
        await channel.close()
    await api.stop()
    await runner.cleanup()


async def test_fatal_gpu_is_reset_by_one_job_and_its_node_is_back(kube: Kube, eventually: Eventually) -> None:
    await eventually(lambda: kube.is_in(pb.HEALTH_STATE_HEALTHY))
    kube.break_gpu()

    async def made() -> bool:
        return bool(kube.jobs())

    await eventually(made)
    [job] = kube.jobs()
    session = (await kube.health()).repair.session
    uuid = (await kube.health()).gpus[0].uuid
    pod = job["spec"]["template"]["spec"]
    assert job["metadata"]["name"] == f"gpuhealth-reset-{session[:8].lower()}"
    assert pod["nodeName"] == "n0"
    assert pod["containers"][0]["command"] == ["reset", uuid]
    node = kube.api.objects.get("nodes", "", "n0")
    assert node["metadata"]["annotations"][SESSION] == session
    looks = kube.api.ledger.calls["get", "jobs"]

    async def looked_again() -> bool:
        return kube.api.ledger.calls["get", "jobs"] > looks + 1

    await eventually(looked_again)
    assert kube.api.ledger.calls["create", "jobs"] == 1
    kube.end_job("Complete")
    await eventually(lambda: kube.is_in(pb.HEALTH_STATE_HEALTHY))

    async def unmarked() -> bool:
        found = kube.api.objects.get("nodes", "", "n0")
        return not found["spec"].get("unschedulable") and not found["spec"].get("taints")

    await eventually(unmarked)
    explained = await kube.stub.ExplainVerdict(pb.ExplainVerdictRequest(name="nodes/n0"))
    types = [event.type for event in explained.events]
    order = ["QUARANTINED", "REPAIR_BEGUN", "REPAIRED", "RELEASED"]
    assert [one for one in types if one in order] == order


async def test_refused_job_is_said_and_tried_until_a_failed_one_calls_a_person(
    kube: Kube, eventually: Eventually
) -> None:
    await eventually(lambda: kube.is_in(pb.HEALTH_STATE_HEALTHY))
    kube.api.ledger.denied.add(("create", "jobs"))
    kube.break_gpu()

    async def said() -> bool:
        return 'cannot create resource "jobs"' in (await kube.health()).repair.message

    await eventually(said)
    explained = await kube.stub.ExplainVerdict(pb.ExplainVerdictRequest(name="nodes/n0"))
    assert "a reset is under way: " in "\n".join(explained.explanation)
    kube.api.ledger.denied.clear()

    async def made() -> bool:
        return bool(kube.jobs()) and not (await kube.health()).repair.message

    await eventually(made)
    kube.end_job("Failed", reason="BackoffLimitExceeded", message="Job has reached the specified backoff limit")

    async def human() -> bool:
        return (await kube.health()).repair.stage == pb.REPAIR_STAGE_HUMAN

    await eventually(human)
    assert "reached the specified backoff limit" in (await kube.health()).repair.message
    assert await kube.is_in(pb.HEALTH_STATE_QUARANTINED)
