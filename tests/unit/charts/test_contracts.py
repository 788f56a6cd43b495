"""What charts hand to the programs, taken by the programs themselves: settings, pod templates, commands, methods."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import yaml
from kubernetes_validate import utils as kubernetes_schemas
from longhaul_core.certificates.__main__ import main as certificates
from longhaul_core.certificates.authority import create_authority, issue
from longhaul_core.cluster.kubernetes.manifest import build_manifest
from longhaul_core.cluster.kubernetes.options import parse_url
from longhaul_core.cluster.kubernetes.overlay import load_template
from longhaul_core.cluster.model import PodSpec
from longhaul_core.settings import GRPC_PORTS, METRICS_PORT_OFFSET, load_settings
from longhaul_gpuhealth.adapters.hooks import HookCall
from longhaul_gpuhealth.adapters.job_hook import load_job_template
from longhaul_gpuhealth.agent.__main__ import arguments_of
from longhaul_gpuhealth.domain.model import Remedy

from tests.unit.charts.harness import (
    CHARTS,
    KUBERNETES,
    ROOT,
    SERVICES,
    Document,
    Rendering,
    merge,
    profile,
    render,
    validate,
)
from tests.unit.charts.test_rendering import CASES
from tests.unit.charts.test_security import check_restricted
from tests.unit.charts.test_values import under

NOW = datetime.now(UTC)
PROTOS = ROOT / "protos" / "longhaul"
GPUHEALTH = "Deployment/longhaul-gpuhealth"


def environment_of(pod: Document) -> dict[str, str]:
    """The variables as the container sees them; what a secret holds is made up."""
    made_up = {"LONGHAUL_DATABASE_URL": "postgresql://u:p@db/longhaul"}
    found = {}
    for entry in pod["containers"][0]["env"]:
        value = entry.get("value", made_up.get(entry["name"], "10.0.0.7"))
        found[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], value)
    return found


def test_a_refused_removal_is_told_at_once_and_other_hooks_are_tried_again() -> None:
    jobs = render("longhaul", profile("trial")).kind("Job")
    retries = {name: job["spec"]["backoffLimit"] for name, job in jobs.items()}
    assert retries == {"longhaul-guard": 0, "longhaul-certificates": 3, "longhaul-certificates-removal": 3}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("service", SERVICES)
def test_service_takes_its_environment(service: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = render("longhaul", profile(*CASES[case])).pods()[f"Deployment/longhaul-{service}"]
    environment = environment_of(pod)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    module = importlib.import_module(f"longhaul_{service}.settings")
    settings = load_settings(next(kind for kind in vars(module).values() if getattr(kind, "service", "") == service))
    unknown = {name for name in environment if name.startswith("LONGHAUL_")} - {
        f"LONGHAUL_{field.upper()}" for field in type(settings).model_fields
    }
    assert unknown == set()
    assert settings.listen_address == f"0.0.0.0:{GRPC_PORTS[service]}"
    assert settings.metrics_address == f"0.0.0.0:{GRPC_PORTS[service] + METRICS_PORT_OFFSET}"
    assert settings.health_address == f"0.0.0.0:{pod['containers'][0]['livenessProbe']['grpc']['port']}"
    assert settings.advertise_address == f"10.0.0.7:{GRPC_PORTS[service]}"
    assert pod["containers"][0]["command"] == ["python", "-m", f"longhaul_{service}"]
    if settings.cluster_url:
        assert parse_url(settings.cluster_url).scope


def template_of(rendering: Rendering, folder: Path) -> Document:
    path = folder / "template.yaml"
    path.write_text(rendering.one("ConfigMap", "longhaul-training-pods")["data"]["template.yaml"], encoding="utf-8")
    loaded: Document = load_template(str(path))
    return loaded


def run_pod(values: dict[str, Any], folder: Path) -> Document:
    """A pod of a run as the training service makes it of the chart's template and cluster URL."""
    rendering = render("longhaul", values)
    environment = environment_of(rendering.pods()["Deployment/longhaul-training"])
    options = parse_url(environment["LONGHAUL_CLUSTER_URL"])
    spec = PodSpec(
        name="run-0",
        namespace="default",
        command=("python", "-m", "longhaul_trainer.agent"),
        image=environment["LONGHAUL_TRAINER_IMAGE"],
        scratch_dir="/scratch",
        gpus=8,
        node="node-1",
    )
    return build_manifest(spec, options.namespace, options, template_of(rendering, folder))


@pytest.mark.parametrize("case", sorted(set(CASES) - {"rdma"}))
def test_pod_of_a_run_is_restricted_and_valid(case: str, tmp_path: Path) -> None:
    pod = run_pod(profile(*CASES[case]), tmp_path)
    check_restricted(case, pod["spec"])
    kubernetes_schemas.validate(pod, KUBERNETES[-1], strict=True)
    mounts = {mount["mountPath"]: mount for mount in pod["spec"]["containers"][0]["volumeMounts"]}
    assert {"/tmp", "/scratch", "/dev/shm"} <= set(mounts)
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in mounts.values()} <= volumes


def test_pod_of_an_rdma_run_adds_ipc_lock_alone(tmp_path: Path) -> None:
    pod = run_pod(profile("rdma"), tmp_path)["spec"]
    assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    pod["containers"][0]["securityContext"]["capabilities"].pop("add")
    check_restricted("rdma", pod)


def test_pod_of_a_trial_sees_the_store_and_no_database(tmp_path: Path) -> None:
    mounts = run_pod(profile("trial"), tmp_path)["spec"]["containers"][0]["volumeMounts"]
    of_data = [mount for mount in mounts if mount["name"] == "data"]
    assert of_data == [{"name": "data", "mountPath": "/var/lib/longhaul/objects", "subPath": "objects"}]


def test_own_pod_template_is_laid_over_the_charts(tmp_path: Path) -> None:
    own = {
        "metadata": {"annotations": {"a": "b"}},
        "spec": {
            "volumes": [{"name": "nfs", "emptyDir": {}}],
            "schedulerName": "kueue",
            "containers": [{"name": "main", "volumeMounts": [{"name": "nfs", "mountPath": "/nfs"}]}],
        },
    }
    pod = run_pod(merge(profile("trial"), under("global.runs.podTemplate", own)), tmp_path)
    assert pod["metadata"]["annotations"] == {"a": "b"}
    assert pod["spec"]["schedulerName"] == "kueue"
    mounts = {mount["mountPath"] for mount in pod["spec"]["containers"][0]["volumeMounts"]}
    assert {"/nfs", "/tmp", "/scratch", "/var/lib/longhaul/objects"} <= mounts


def test_route_knows_every_service_of_the_protos() -> None:
    route = render("longhaul", profile("production", "certmanager")).one("GRPCRoute", "longhaul")
    routed = {
        match["method"]["service"]: rule["backendRefs"][0]["name"]
        for rule in route["spec"]["rules"]
        for match in rule["matches"]
    }
    wanted = {
        f"longhaul.{path.parent.parent.name}.v1.{name}": f"longhaul-{path.parent.parent.name}"
        for path in PROTOS.glob("*/v1/*.proto")
        for name in re.findall(r"^service (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert routed == wanted


@pytest.mark.parametrize("case", ["production", "production-certmanager"])
def test_gateway_trusts_the_certificate_of_each_service_by_a_name_that_it_has(case: str) -> None:
    gateway = {"mode": "gateway", "gateway": {"parentRefs": [{"name": "public"}]}}
    rendering = render("longhaul", merge(profile(*CASES[case]), under("endpoint", gateway)))
    for service in SERVICES:
        policy = rendering.one("BackendTLSPolicy", f"longhaul-{service}")["spec"]
        assert policy["targetRefs"] == [{"group": "", "kind": "Service", "name": f"longhaul-{service}"}]
        name = policy["validation"]["hostname"]
        if case == "production":
            command = " ".join(
                rendering.one("Job", "longhaul-certificates")["spec"]["template"]["spec"]["containers"][0]["command"]
            )
            issued = command.partition(f"longhaul-{service}-tls=")[2].partition(" ")[0].split(",")
            assert policy["validation"]["caCertificateRefs"] == [{"group": "", "kind": "Secret", "name": "longhaul-ca"}]
        else:
            issued = rendering.one("Certificate", f"longhaul-{service}")["spec"]["dnsNames"]
        assert name in issued


def test_endpoint_leads_each_port_to_the_pods_of_its_service() -> None:
    rendering = render("longhaul", under("endpoint.mode", "service"))
    endpoint = rendering.one("Service", "longhaul")["spec"]
    assert {port["name"]: port["port"] for port in endpoint["ports"]} == dict(GRPC_PORTS)
    for service in SERVICES:
        template = rendering.one("Deployment", f"longhaul-{service}")["spec"]["template"]
        assert endpoint["selector"].items() <= template["metadata"]["labels"].items()
        named = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
        asked = {port["targetPort"] for port in endpoint["ports"]} & set(named)
        assert asked == {f"grpc-{service}"}
        assert named[f"grpc-{service}"] == GRPC_PORTS[service]


def hook_command(rendering: Rendering, name: str) -> list[str]:
    command: list[str] = rendering.one("Job", name)["spec"]["template"]["spec"]["containers"][0]["command"]
    return command


def test_certificates_cover_every_address_that_is_dialled(tmp_path: Path) -> None:
    rendering = render("longhaul")
    command = hook_command(rendering, "longhaul-certificates")
    assert command[:4] == ["python", "-m", "longhaul_core.certificates", "ensure"]
    given = dict(text.split("=", 1) for flag, text in pairwise(command) if flag == "--certificate")
    environment = environment_of(rendering.pods()["Deployment/longhaul-training"])
    authority = create_authority("longhaul", NOW)
    for service in SERVICES:
        names = given[f"longhaul-{service}-tls"].split(",")
        made = issue(authority, names, NOW)
        assert environment[f"LONGHAUL_{service.upper()}_ADDRESS"].partition(":")[0] in made.names()
        test = rendering.one("Pod", f"longhaul-{service}-test")["spec"]["containers"][0]["command"]
        assert test[-1].partition(":")[0] in made.names()


def test_hook_commands_are_understood(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an API server each says that there is none, and complains of no argument."""
    rendering = render("longhaul")
    for name in ("longhaul-certificates", "longhaul-certificates-removal"):
        arguments = hook_command(rendering, name)[3:]
        assert certificates([*arguments, "--server", "http://127.0.0.1:9", "--account", str(tmp_path)]) == 78
        assert "service account token" in capsys.readouterr().err


def test_hooks_come_in_their_order() -> None:
    rendering = render("longhaul", profile("production"))
    weights = {
        name: int(document["metadata"]["annotations"]["helm.sh/hook-weight"])
        for (_, name), document in rendering.documents.items()
        if "helm.sh/hook-weight" in document["metadata"].get("annotations", {})
    }
    assert weights["longhaul-certificates"] < weights["longhaul-migrate"]
    assert weights["longhaul-guard"] < weights["longhaul-certificates-removal"]
    assert hook_command(rendering, "longhaul-migrate") == ["python", "-m", "longhaul_core.db.migrate"]
    assert hook_command(rendering, "longhaul-guard") == [
        *("python", "-m", "longhaul_training.guard"),
        "--force=$(FORCE_REMOVAL)",
    ]


def test_exporter_gets_the_counter_list_of_gpuhealth() -> None:
    counters = (CHARTS / "longhaul-gpuhealth" / "files" / "dcgm-counters.csv").read_text(encoding="utf-8")
    rendering = render("longhaul", profile("production", "gpu"))
    given = rendering.one("ConfigMap", "longhaul-gpu/longhaul-dcgm-exporter")["data"]["counters.csv"]
    assert given.strip() == counters.strip()
    exporter = rendering.pods()["DaemonSet/longhaul-gpu/longhaul-dcgm-exporter"]["containers"][0]
    assert exporter["args"][:2] == ["--collectors", "/etc/longhaul/counters.csv"]


@pytest.mark.parametrize("remedy", [Remedy.RESET, Remedy.REBOOT])
def test_shipped_repair_jobs_are_templates_that_kubernetes_takes(remedy: Remedy, tmp_path: Path) -> None:
    rendering = render("longhaul", profile("production", "everything"))
    name = remedy.name.lower()
    variables = {one["name"]: one.get("value") for one in rendering.pods()[GPUHEALTH]["containers"][0]["env"]}
    assert variables[f"LONGHAUL_{name.upper()}_JOB_TEMPLATE"] == f"/etc/longhaul/repair/{name}.yaml"
    path = tmp_path / "job.yaml"
    path.write_text(rendering.one("ConfigMap", "longhaul-gpuhealth-repair")["data"][f"{name}.yaml"])
    job = load_job_template(path).render(HookCall("gpu-7", "ab12cd34ef", remedy, "XID 48", ("GPU-1",)))
    validate(job, "1.37")
    assert job["metadata"]["namespace"] == "longhaul-node"
    script = job["spec"]["template"]["spec"]["containers"][0]["command"][-1]
    assert subprocess.run(["/bin/sh", "-n", "-c", script], check=False).returncode == 0


def test_agent_is_started_as_it_understands_and_scraped_beside_the_exporter() -> None:
    rendering = render("longhaul", profile("production", "everything"))
    agent = rendering.pods()["DaemonSet/longhaul-node/longhaul-gpuhealth-agent"]["containers"][0]
    assert agent["command"] == ["python", "-m", "longhaul_gpuhealth.agent"]
    parsed = arguments_of(agent["args"])
    assert (parsed.listen, parsed.nvml, parsed.no_kernel_log) == ("0.0.0.0:9402", "off", False)
    assert [mount["mountPath"] for mount in agent["volumeMounts"]] == [str(parsed.kernel_log), "/tmp"]
    variables = {one["name"]: one.get("value", "") for one in rendering.pods()[GPUHEALTH]["containers"][0]["env"]}
    query = parse_qs(variables["LONGHAUL_CLUSTER_URL"].partition("?")[2])
    assert query["exporter_url"] == ["http://{address}:9400/metrics http://{address}:9402/metrics"]


def test_metrics_that_scaling_may_use_are_measured_by_the_services() -> None:
    for service in SERVICES:
        name = yaml.safe_load((CHARTS / f"longhaul-{service}" / "values.yaml").read_text())["autoscaling"]["metric"][
            "name"
        ]
        sources = [*(ROOT / "services" / service).rglob("*.py"), ROOT / "libs/core/src/longhaul_core/metrics.py"]
        short = name.removeprefix(f"longhaul_{service}_")
        assert any(f'"{short}"' in path.read_text(encoding="utf-8") for path in sources), name


def test_schema_files_are_json() -> None:
    for path in CHARTS.glob("longhaul*/values.schema.json"):
        assert json.loads(path.read_text(encoding="utf-8"))["type"] == "object"
