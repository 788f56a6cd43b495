"""The charts on a real API: installed, upgraded, rolled back and removed; rights tried as each service account."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
from chart_lab import DEADLINE_SECONDS, PLURALS, HookRunner, Lab, load_values, secret_data
from longhaul.common.v1 import resource_pb2
from longhaul.training.v1 import task_pb2, task_pb2_grpc
from longhaul_core.certificates.authority import KeyPair
from longhaul_core.rpc.client import connect
from longhaul_core.rpc.server import running_service
from longhaul_training.app import build
from longhaul_training.settings import TrainingSettings

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "longhaul"
SERVICES = ("ingest", "corpus", "training", "checkpoint", "evaluation", "gpuhealth")
RELEASE = "lh"
OF_RELEASE = f"app.kubernetes.io/instance={RELEASE}"
TASK = "projects/default/tasks/one"
UNREACHABLE = {"LONGHAUL_TRAINING_ADDRESS": "127.0.0.1:9"}


@pytest.fixture
def lab(kubeconfig: Path) -> Iterator[Lab]:
    """A namespace that admits restricted pods only."""
    made = Lab(kubeconfig, f"longhaul-charts-{uuid.uuid4().hex[:8]}")
    made.create_namespace("restricted")
    yield made
    made.call("DELETE", made.path("Namespace", made.namespace))


@pytest.fixture
def release(lab: Lab) -> Iterator[helm.Config]:
    with helm.Config(kubeconfig_path=lab.kubeconfig, namespace=lab.namespace) as config:
        yield config


def values(**image: str) -> dict[str, Any]:
    loaded = load_values(CHART / "profiles" / "trial.yaml")
    loaded["global"]["image"] = image
    return loaded


def left(lab: Lab) -> dict[str, set[str]]:
    """What is there of the release, apart from its volume, which is kept."""
    kinds = set(PLURALS) - {"Namespace", "Node", "PersistentVolume", "PersistentVolumeClaim"}
    found = {kind: lab.names(kind, OF_RELEASE) for kind in kinds}
    for kind in ("ClusterRole", "ClusterRoleBinding"):
        found[kind] = {name for name in found[kind] if name.startswith(f"{lab.namespace}-")}
    return {kind: names for kind, names in found.items() if names}


def wait_until_gone(lab: Lab) -> None:
    """The garbage collector takes the pods of removed Deployments in its own time."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while found := left(lab):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def test_release_is_installed_upgraded_rolled_back_and_removed(lab: Lab, release: helm.Config, tmp_path: Path) -> None:
    with HookRunner(lab, tmp_path, UNREACHABLE).running() as hooks:
        release.install(CHART, RELEASE, values(tag="1"), timeout=120)
        assert lab.names("Deployment", OF_RELEASE) == {f"{RELEASE}-{service}" for service in SERVICES}
        first = secret_data(lab.get("Secret", f"{RELEASE}-ca"))
        for service in SERVICES:
            made = secret_data(lab.get("Secret", f"{RELEASE}-{service}-tls"))
            pair = KeyPair(made["tls.crt"], made["tls.key"])
            assert pair.issued_by(KeyPair(first["tls.crt"], first["tls.key"]))

        release.upgrade(CHART, RELEASE, values(tag="2"), timeout=120)
        assert image_of(lab, "corpus") == "longhaul/corpus:2"
        assert secret_data(lab.get("Secret", f"{RELEASE}-ca")) == first
        release.rollback(RELEASE, timeout=120)
        assert image_of(lab, "corpus") == "longhaul/corpus:1"
        assert [entry["revision"] for entry in release.history(RELEASE)] == [1, 2, 3]

        with pytest.raises(helm.HelmError):
            release.uninstall(RELEASE, timeout=120)  # training does not answer: runs may live
        assert "cannot tell whether runs live" in hooks.ran[-1][2]
        assert lab.names("Deployment", OF_RELEASE)
        release.rollback(RELEASE, version=2, timeout=120)  # the way back after a refusal
        assert image_of(lab, "corpus") == "longhaul/corpus:2"
        release.upgrade(CHART, RELEASE, values(tag="3"), timeout=120)
        with pytest.raises(helm.HelmError):
            release.uninstall(RELEASE, timeout=120)
        forced = {"metadata": {"name": f"{RELEASE}-removal"}, "data": {"force": "true"}}
        lab.call("POST", lab.path("ConfigMap"), forced)
        release.uninstall(RELEASE, timeout=120)
    wait_until_gone(lab)
    assert lab.names("PersistentVolumeClaim", OF_RELEASE) == {f"{RELEASE}-data"}
    assert {name.removeprefix(f"{RELEASE}-") for name, _, _ in hooks.ran} == {
        "certificates",
        "certificates-removal",
        "guard",
    }


async def test_removal_waits_for_the_last_task(lab: Lab, release: helm.Config, tmp_path: Path) -> None:
    settings = TrainingSettings(data_dir=tmp_path, listen_address="127.0.0.1:0", metrics_address="")
    async with running_service(settings, build) as address, connect(address) as channel:
        stub = task_pb2_grpc.TaskServiceStub(channel)
        spec = task_pb2.TaskSpec(kind=task_pb2.TASK_KIND_SCORE, result_key="projects/default/tasks/one.json", gpus=1)
        await stub.CreateTask(
            task_pb2.CreateTaskRequest(parent="projects/default", task_id="one", spec=spec, request_id="r-1")
        )
        with HookRunner(lab, tmp_path, {"LONGHAUL_TRAINING_ADDRESS": address}).running() as hooks:
            await asyncio.to_thread(release.install, CHART, RELEASE, values(), timeout=120)
            with pytest.raises(helm.HelmError):
                await asyncio.to_thread(release.uninstall, RELEASE, timeout=120)
            assert TASK in hooks.ran[-1][2]
            await stub.CancelTask(task_pb2.CancelTaskRequest(name=TASK))
            watch = stub.WatchTasks(task_pb2.WatchTasksRequest(parent="projects/default"), timeout=60)
            async for event in watch:
                if event.task.status.state == resource_pb2.JOB_STATE_CANCELLED:
                    break
            await asyncio.to_thread(release.uninstall, RELEASE, timeout=120)
    wait_until_gone(lab)


def image_of(lab: Lab, service: str) -> str:
    pod = lab.get("Deployment", f"{RELEASE}-{service}")["spec"]["template"]["spec"]
    image: str = pod["containers"][0]["image"]
    return image


@pytest.fixture
def installed(lab: Lab, release: helm.Config, tmp_path: Path) -> Iterator[Lab]:
    with HookRunner(lab, tmp_path, UNREACHABLE).running():
        release.install(CHART, RELEASE, {**values(), "uninstall": {"guard": False}}, timeout=120)
        yield lab
        release.uninstall(RELEASE, timeout=120)


def test_pod_security_admits_every_pod_of_the_release(installed: Lab) -> None:
    """The namespace enforces "restricted"; a dry run goes through the whole admission."""
    for deployment in installed.items("Deployment", OF_RELEASE):
        template = deployment["spec"]["template"]
        name = deployment["metadata"]["name"]
        pod = {
            "metadata": {"name": f"{name}-trial", "labels": template["metadata"]["labels"]},
            "spec": template["spec"],
        }
        answer = installed.call("POST", installed.path("Pod") + "?dryRun=All", pod)
        assert answer["spec"]["containers"][0]["command"][0] == "python"
    refused = {"metadata": {"name": "root"}, "spec": {"containers": [{"name": "root", "image": "root"}]}}
    assert installed.admin.status("POST", installed.path("Pod") + "?dryRun=All", refused) == 403


def small_pod(name: str) -> dict[str, Any]:
    safe = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    container = {
        "name": "main",
        "image": "none",
        "securityContext": {**safe, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    return {"metadata": {"name": name}, "spec": {"containers": [container], "automountServiceAccountToken": False}}


def test_each_service_account_may_what_it_needs_and_nothing_else(installed: Lab) -> None:
    lab = installed
    lab.call("POST", lab.path("Node"), {"metadata": {"name": f"{lab.namespace}-node"}})
    try:
        for service in SERVICES:
            caller = lab.as_account(f"{RELEASE}-{service}")
            for attempt, expected in attempts(lab, service).items():
                method, path, body = attempt_of(lab, attempt)
                code = caller.status(method, path, body)
                assert (code != 403) is expected, f"{service}: {attempt} answered {code}"
    finally:
        lab.call("DELETE", lab.path("Node", f"{lab.namespace}-node"))


ATTEMPTS = (
    "list nodes",
    "patch a node",
    "patch a node's status",
    "delete a node",
    "list pods",
    "create a pod",
    "delete a pod",
    "read a pod's log",
    "list events",
    "create a config map",
    "run a command in a pod",
    "bind a pod",
    "list secrets",
    "read a TLS secret",
    "create a secret",
    "list pods of kube-system",
    "create a pod in kube-system",
    "list all pods",
    "create a role",
    "create a cluster role binding",
    "patch a deployment",
    "make a token of another account",
    "list namespaces",
    "delete a persistent volume claim",
)
ALLOWED = {
    "training": {
        "list nodes",
        "list pods",
        "create a pod",
        "delete a pod",
        "read a pod's log",
        "list events",
        "create a config map",
    },
    "gpuhealth": {
        "list nodes",
        "patch a node",
        "patch a node's status",
        "list pods",
        "list pods of kube-system",
        "list all pods",
    },
}


def attempts(lab: Lab, service: str) -> dict[str, bool]:
    allowed = ALLOWED.get(service, set())
    assert len(set(ATTEMPTS) - allowed) >= 10
    return {attempt: attempt in allowed for attempt in ATTEMPTS}


def attempt_of(lab: Lab, attempt: str) -> tuple[str, str, dict[str, Any] | None]:
    """The request of an attempt; those that change something are dry runs."""
    node, dry = f"{lab.namespace}-node", "?dryRun=All"
    core, rbac = f"/api/v1/namespaces/{lab.namespace}", "/apis/rbac.authorization.k8s.io/v1"
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "more"}, "rules": []}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    binding = {**role, "roleRef": reference, "subjects": []}
    marked = {"metadata": {"labels": {"a": "b"}}}
    token = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    requests: dict[str, tuple[str, str, dict[str, Any] | None]] = {
        "list nodes": ("GET", "/api/v1/nodes", None),
        "patch a node": ("PATCH", f"/api/v1/nodes/{node}{dry}", {"spec": {"unschedulable": True}}),
        "patch a node's status": ("PATCH", f"/api/v1/nodes/{node}/status{dry}", marked),
        "delete a node": ("DELETE", f"/api/v1/nodes/{node}{dry}", None),
        "list pods": ("GET", f"{core}/pods", None),
        "create a pod": ("POST", f"{core}/pods{dry}", small_pod("try")),
        "delete a pod": ("DELETE", f"{core}/pods/none{dry}", None),
        "read a pod's log": ("GET", f"{core}/pods/none/log", None),
        "list events": ("GET", f"{core}/events", None),
        "create a config map": ("POST", f"{core}/configmaps{dry}", {"metadata": {"name": "try"}}),
        "run a command in a pod": ("POST", f"{core}/pods/none/exec?command=id", None),
        "bind a pod": ("POST", f"{core}/pods/none/binding{dry}", {"target": {"kind": "Node", "name": node}}),
        "list secrets": ("GET", f"{core}/secrets", None),
        "read a TLS secret": ("GET", f"{core}/secrets/{RELEASE}-ca", None),
        "create a secret": ("POST", f"{core}/secrets{dry}", {"metadata": {"name": "try"}}),
        "list pods of kube-system": ("GET", "/api/v1/namespaces/kube-system/pods", None),
        "create a pod in kube-system": ("POST", f"/api/v1/namespaces/kube-system/pods{dry}", small_pod("try")),
        "list all pods": ("GET", "/api/v1/pods", None),
        "create a role": ("POST", f"{rbac}/namespaces/{lab.namespace}/roles{dry}", {**role, "kind": "Role"}),
        "create a cluster role binding": (
            "POST",
            f"{rbac}/clusterrolebindings{dry}",
            {**binding, "kind": "ClusterRoleBinding"},
        ),
        "patch a deployment": (
            "PATCH",
            f"/apis/apps/v1/namespaces/{lab.namespace}/deployments/{RELEASE}-ingest{dry}",
            marked,
        ),
        "make a token of another account": ("POST", f"{core}/serviceaccounts/default/token{dry}", token),
        "list namespaces": ("GET", "/api/v1/namespaces", None),
        "delete a persistent volume claim": ("DELETE", f"{core}/persistentvolumeclaims/{RELEASE}-data{dry}", None),
    }
    return requests[attempt]
