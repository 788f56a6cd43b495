"""What Kubernetes writes about a pod's end or wait, told apart."""

from __future__ import annotations

from typing import Any

import pytest
from longhaul_core.cluster import Pod, PodPhase, PodReason
from longhaul_core.cluster.kubernetes.nodes import parse_node
from longhaul_core.cluster.kubernetes.options import KubernetesOptions
from longhaul_core.cluster.kubernetes.pods import parse_pod

OPTIONS = KubernetesOptions()
T0, T1 = "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"


def read(status: dict[str, Any], *, node: str | None = "n0", **metadata: Any) -> Pod:
    identity = {"name": "p", "namespace": "a", "uid": "u", "resourceVersion": "7", "creationTimestamp": T0}
    spec: dict[str, Any] = {"containers": [{"name": "main"}]}
    if node is not None:
        spec["nodeName"] = node
    return parse_pod({"metadata": {**identity, **metadata}, "spec": spec, "status": status}, OPTIONS).pod


def exited(code: int, reason: str = "Error", **status: Any) -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "reason": reason, "startedAt": T0, "finishedAt": T1}}
    phase = "Succeeded" if code == 0 else "Failed"
    return {"phase": phase, "containerStatuses": [{"name": "main", "state": state}], **status}


def condition(type_: str, reason: str, status: str = "True") -> dict[str, Any]:
    return {"type": type_, "status": status, "reason": reason, "message": f"because {reason}", "lastTransitionTime": T1}


@pytest.mark.parametrize(
    ("status", "reason", "code", "disrupted"),
    [
        (exited(0, "Completed"), PodReason.COMPLETED, 0, False),
        (exited(75), PodReason.ERROR, 75, False),
        (exited(137, "OOMKilled"), PodReason.OUT_OF_MEMORY, 137, False),
        (exited(137, "ContainerStatusUnknown"), PodReason.NODE_LOST, None, False),
        (exited(128, "StartError"), PodReason.START_ERROR, 128, False),
        (
            exited(143, conditions=[condition("DisruptionTarget", "PreemptionByScheduler")]),
            PodReason.PREEMPTED,
            143,
            True,
        ),
        (
            exited(137, conditions=[condition("DisruptionTarget", "EvictionByEvictionAPI")]),
            PodReason.EVICTED,
            137,
            True,
        ),
        (exited(0, conditions=[condition("DisruptionTarget", "EvictionByEvictionAPI")]), PodReason.COMPLETED, 0, False),
        (exited(1, conditions=[condition("DisruptionTarget", "PodGC", status="False")]), PodReason.ERROR, 1, False),
        (
            exited(143, reason="Terminated", conditions=[condition("DisruptionTarget", "TerminationByKubelet")])
            | {"reason": "Terminated"},
            PodReason.NODE_SHUTDOWN,
            143,
            True,
        ),
        (exited(143, conditions=[condition("TerminationTarget", "Preempted")]), PodReason.PREEMPTED, 143, True),
        ({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}, PodReason.EVICTED, None, True),
        ({"phase": "Failed", "reason": "OutOfnvidia.com/gpu"}, PodReason.OUT_OF_GPUS, None, False),
        (
            {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "no healthy nvidia.com/gpu"},
            PodReason.OUT_OF_GPUS,
            None,
            False,
        ),
        ({"phase": "Failed", "reason": "NodeAffinity"}, "NodeAffinity", None, False),
        (
            {"phase": "Failed", "conditions": [condition("DisruptionTarget", "DeletionByPodGC")]},
            PodReason.NODE_LOST,
            None,
            False,
        ),
    ],
)
def test_ended_pod_is_told_apart_by_cause(
    status: dict[str, Any], reason: str, code: int | None, disrupted: bool
) -> None:
    pod = read(status)
    assert pod.phase.terminal
    assert (pod.reason, pod.exit_code, pod.disrupted) == (reason, code, disrupted)


def test_pod_whose_sidecar_runs_on_has_ended() -> None:
    status = exited(75)
    status["phase"] = "Running"
    status["containerStatuses"].append({"name": "istio-proxy", "state": {"running": {"startedAt": T0}}})
    pod = read(status)
    assert (pod.phase, pod.exit_code) == (PodPhase.FAILED, 75)
    assert pod.finished_at is not None


def test_pod_that_is_being_preempted_says_so_while_it_runs() -> None:
    running = {"phase": "Running", "containerStatuses": [{"name": "main", "state": {"running": {"startedAt": T0}}}]}
    preempted = read(
        {**running, "conditions": [condition("DisruptionTarget", "PreemptionByScheduler")]}, deletionTimestamp=T1
    )
    assert (preempted.phase, preempted.reason, preempted.disrupted) == (PodPhase.RUNNING, PodReason.PREEMPTED, True)
    assert preempted.deletion_requested
    assert read(running).reason == ""


@pytest.mark.parametrize(
    ("waiting", "message", "reason"),
    [
        ("ContainerCreating", "", ""),
        ("ErrImagePull", "manifest unknown", PodReason.IMAGE_UNAVAILABLE),
        ("InvalidImageName", "", PodReason.IMAGE_UNAVAILABLE),
        ("CreateContainerConfigError", 'secret "x" not found', PodReason.SECRET_MISSING),
        (
            "CreateContainerConfigError",
            "container has runAsNonRoot and image will run as root",
            PodReason.CONTAINER_INVALID,
        ),
        ("RunContainerError", "exec: not found", PodReason.START_ERROR),
    ],
)
def test_pod_that_waits_on_its_node_tells_why(waiting: str, message: str, reason: str) -> None:
    state = {"waiting": {"reason": waiting, "message": message}}
    pod = read({"phase": "Pending", "containerStatuses": [{"name": "main", "state": state}]})
    assert (pod.phase, pod.reason) == (PodPhase.PENDING, reason)
    assert pod.message == ("" if not reason else message or waiting)


@pytest.mark.parametrize("reason", ["Unschedulable", "SchedulingGated"])
def test_pod_without_node_tells_what_the_scheduler_said(reason: str) -> None:
    pod = read({"phase": "Pending", "conditions": [condition("PodScheduled", reason, "False")]}, node=None)
    assert (pod.node, pod.reason, pod.message) == (None, reason, f"because {reason}")
    assert not pod.holds_gpus


def test_node_counts_offered_gpus_and_tells_of_unhealthy_ones() -> None:
    raw = {
        "metadata": {"name": "n0", "uid": "u", "resourceVersion": "9", "annotations": {}},
        "spec": {
            "unschedulable": True,
            "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}],
        },
        "status": {
            "capacity": {"nvidia.com/gpu": "8", "cpu": "64"},
            "allocatable": {"nvidia.com/gpu": "7", "cpu": "63500m"},
            "addresses": [{"type": "InternalIP", "address": "10.0.0.7"}],
            "conditions": [
                {"type": "Ready", "status": "Unknown", "lastTransitionTime": T1},
                {"type": "DiskPressure", "status": "True", "reason": "Full", "lastTransitionTime": T0},
            ],
        },
    }
    options = KubernetesOptions(exporter_url="http://{address}:9400/metrics")
    node = parse_node(raw, options).node
    assert (node.gpus_total, node.gpus_unhealthy, node.ready, node.unschedulable) == (7, 1, False, True)
    assert node.taints == ()
    assert node.silent_since is not None
    assert [item.type for item in node.conditions] == ["DiskPressure"]
    assert node.exporter_url == "http://10.0.0.7:9400/metrics"
    raw["metadata"]["annotations"] = {"longhaul.dev/exporter-url": "http://exporter/n0"}
    assert parse_node(raw, options).node.exporter_url == "http://exporter/n0"
