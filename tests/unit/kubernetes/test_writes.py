"""Writes: what they cost, what racing writers and lost answers do to them, and what refusals become."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from fakekube import FakeKubernetes, Fault
from longhaul_core.cluster import (
    Condition,
    ConditionStatus,
    NodePatch,
    PodPhase,
    PodReason,
    Taint,
    TaintEffect,
)
from longhaul_core.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from player import GPU

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
BAD = Taint("longhaul.dev/gpu-error", "fatal")
SICK = Condition("GpuHealthy", ConditionStatus.FALSE, "XidFatal", "XID 79", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))


async def test_pod_costs_two_calls_in_its_life(server: FakeKubernetes, handle: Any, eventually: Eventually) -> None:
    cluster, count = handle.cluster.inner, 40
    stream = cluster.watch()
    await anext(stream)
    before = server.ledger.calls.copy()
    pods = await asyncio.gather(*(cluster.create_pod(handle.running(f"p{i}", node="n0")) for i in range(count)))
    created = server.ledger.calls - before
    await handle.player.settle()

    async def all_run() -> bool:
        return {pod.phase for pod in await cluster.list_pods()} == {PodPhase.RUNNING}

    await eventually(all_run)
    before = server.ledger.calls.copy()
    await asyncio.gather(*(cluster.delete_pod("default", pod.name, pod.uid) for pod in pods))
    deleted = server.ledger.calls - before
    watches = sum(number for (verb, _), number in (created + deleted).items() if verb == "watch")
    assert (created + deleted).total() - watches == 2 * count
    assert cluster.calls["create pods"] == cluster.calls["delete pods"] == count
    await stream.aclose()


async def test_many_pods_at_slow_api_are_created_side_by_side(server: FakeKubernetes, handle: Any) -> None:
    server.latency = 0.1
    cluster = handle.cluster.inner
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(cluster.create_pod(handle.running(f"p{i}")) for i in range(64)))
    assert asyncio.get_running_loop().time() - began < 0.1 * 64 / 4


async def test_patch_node_goes_on_over_heartbeats_of_the_kubelet(server: FakeKubernetes, handle: Any) -> None:
    node = await handle.cluster.get_node("n0")
    for beat in range(3):
        _heartbeat(server, "n0", beat)
    assert (await handle.cluster.get_node("n0")).resource_version == node.resource_version
    patch = NodePatch(taints_add=(BAD,), conditions=(SICK,))
    patched = await handle.cluster.patch_node("n0", patch, expected_version=node.resource_version)
    assert patched.has_taint(BAD.key)
    assert patched.condition("GpuHealthy") == SICK
    assert patched.resource_version != node.resource_version


@pytest.mark.parametrize("resource", ["nodes", "nodes/status"])
async def test_patch_node_conflict_in_the_middle_is_repeated_or_reported(
    server: FakeKubernetes, handle: Any, resource: str
) -> None:
    node = await handle.cluster.get_node("n0")
    conflict = Fault("patch", resource, status=409, reason="Conflict", message="the object has been modified")
    server.ledger.faults.append(conflict)
    patch = NodePatch(unschedulable=True, conditions=(SICK,))
    patched = await handle.cluster.patch_node("n0", patch, expected_version=node.resource_version)
    assert conflict.fired == 1
    assert (patched.unschedulable, patched.condition("GpuHealthy")) == (True, SICK)
    with pytest.raises(Aborted) as caught:
        await handle.cluster.patch_node("n0", NodePatch(taints_add=(BAD,)), expected_version=node.resource_version)
    assert caught.value.reason == "NODE_CHANGED"


async def test_patch_node_whose_answer_was_lost_is_not_reported_as_conflict(
    server: FakeKubernetes, handle: Any
) -> None:
    node = await handle.cluster.get_node("n0")
    lost = Fault("patch", "nodes", executed=True)
    server.ledger.faults.append(lost)
    patched = await handle.cluster.patch_node(
        "n0", NodePatch(taints_add=(BAD,)), expected_version=node.resource_version
    )
    assert lost.fired == 1
    assert patched.has_taint(BAD.key)


async def test_patch_node_leaves_taints_of_others_as_they_are(server: FakeKubernetes, handle: Any) -> None:
    node = server.objects.get("nodes", "", "n0")
    derived = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}
    foreign = {"key": "team/x", "value": "1", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}
    server.objects.replace("nodes", {**node, "spec": {"taints": [derived, foreign]}})
    seen = await handle.cluster.get_node("n0")
    assert seen.taints == (Taint("team/x", "1", TaintEffect.NO_EXECUTE),)
    await handle.cluster.patch_node("n0", NodePatch(taints_add=(BAD,)))
    stored = server.objects.get("nodes", "", "n0")["spec"]["taints"]
    assert derived in stored
    assert foreign in stored
    assert {"key": BAD.key, "value": BAD.value, "effect": "NoSchedule"} in stored
    await handle.cluster.patch_node("n0", NodePatch(taints_remove=(BAD,)))
    assert server.objects.get("nodes", "", "n0")["spec"]["taints"] == [derived, foreign]


async def test_create_pod_whose_answer_was_lost_is_not_created_twice(server: FakeKubernetes, handle: Any) -> None:
    lost = Fault("create", "pods", executed=True)
    server.ledger.faults.append(lost)
    with pytest.raises(Unavailable):
        await handle.cluster.inner.create_pod(handle.running("p"))
    assert lost.fired == 1
    with pytest.raises(AlreadyExists):
        await handle.cluster.inner.create_pod(handle.running("p"))
    assert len(await handle.cluster.list_pods()) == 1


@pytest.mark.parametrize(("retry_after", "fired"), [(0, 2), (60, 1)])
async def test_create_pod_while_api_is_busy_waits_as_asked_or_says_so(
    server: FakeKubernetes, handle: Any, retry_after: int, fired: int
) -> None:
    busy = Fault("create", "pods", status=429, retry_after=retry_after, times=2)
    server.ledger.faults.append(busy)
    if retry_after == 0:
        await handle.cluster.inner.create_pod(handle.running("p"))
    else:
        with pytest.raises(Unavailable) as caught:
            await handle.cluster.inner.create_pod(handle.running("p"))
        assert caught.value.retry_after_seconds == retry_after
    assert busy.fired == fired


async def test_create_pod_beyond_quota_names_it(server: FakeKubernetes, handle: Any) -> None:
    server.admission.quotas[handle.namespace] = {f"requests.{GPU}": 8}
    await handle.cluster.create_pod(handle.running("a", node="n0", gpus=6))
    with pytest.raises(ResourceExhausted) as caught:
        await handle.cluster.create_pod(handle.running("b", node="n1", gpus=4))
    assert caught.value.reason == "QUOTA_EXCEEDED"
    assert f"requested: requests.{GPU}=4, used: requests.{GPU}=6, limited: requests.{GPU}=8" in caught.value.message
    assert "ResourceQuota gpus" in caught.value.action


async def test_create_pod_forbidden_names_verb_resource_namespace_and_rule(server: FakeKubernetes, handle: Any) -> None:
    server.ledger.denied.add(("create", "pods"))
    with pytest.raises(PermissionDenied) as caught:
        await handle.cluster.create_pod(handle.running("p"))
    assert f"may not create pods in namespace {handle.namespace}" in caught.value.message
    rule = 'with the rule {apiGroups: [""], resources: ["pods"], verbs: ["create"]}'
    assert caught.value.action == f"give its service account a Role in namespace {handle.namespace} {rule}"


async def test_create_pod_refused_for_what_it_names_says_what_is_missing(server: FakeKubernetes, handle: Any) -> None:
    cluster = handle.cluster
    with pytest.raises(NotFound) as nowhere:
        await cluster.create_pod(handle.running("p", namespace="nowhere"))
    assert (nowhere.value.reason, nowhere.value.action) == (
        "NAMESPACE_NOT_FOUND",
        "create it: kubectl create namespace nowhere",
    )
    for fields, name in (({"priority_class": "urgent"}, "urgent"), ({"service_account": "runner"}, "runner")):
        with pytest.raises(FailedPrecondition) as caught:
            await cluster.create_pod(handle.running("p", **fields))
        assert caught.value.reason == "REFERENCE_MISSING"
        assert caught.value.action == f"create {name}, or name one that exists"
    missing = {"spec": {"containers": [{"name": "main", "volumeMounts": [{"name": "x", "mountPath": "/x"}]}]}}
    with pytest.raises(InvalidArgument) as invalid:
        await cluster.create_pod(handle.running("p", overlay=missing))
    assert invalid.value.violations == (("spec.containers[0].volumeMounts", 'Not found: "x"'),)


async def test_delete_pod_with_zero_grace_waits_for_its_node(server: FakeKubernetes, handle: Any) -> None:
    """Grace 0 would make the API drop the object while the processes run; only a forced deletion may."""
    pod = await handle.cluster.create_pod(handle.running("p", node="n0", gpus=1))
    await handle.kill_node("n0")
    await handle.cluster.inner.delete_pod("default", "p", pod.uid, grace_seconds=0)
    seen = await handle.cluster.get_pod("default", "p")
    assert seen.deletion_requested
    assert seen.deletion_deadline is not None
    assert seen.holds_gpus


async def test_delete_pod_held_by_a_finalizer_is_still_there(server: FakeKubernetes, handle: Any) -> None:
    held = {"metadata": {"finalizers": ["kueue.x-k8s.io/managed"]}}
    stream = handle.cluster.watch()
    await anext(stream)
    pod = await handle.cluster.create_pod(handle.running("p", overlay=held))
    await handle.cluster.inner.delete_pod("default", "p", pod.uid, force=True)
    assert (await handle.cluster.get_pod("default", "p")).deletion_requested
    await stream.aclose()


async def test_expired_token_is_renewed_once(server: FakeKubernetes, handle: Any) -> None:
    await handle.cluster.list_nodes()
    server.token = "rotated"
    with pytest.raises(Unauthenticated):
        await handle.cluster.list_nodes()
    server.write_kubeconfig(handle.kubeconfig)
    assert len(await handle.cluster.list_nodes()) == 2


async def test_waiting_pod_tells_why(server: FakeKubernetes, handle: Any, eventually: Eventually) -> None:
    """Image, secret and volume: three places in which Kubernetes says it."""
    inner = handle.cluster.inner
    stream = inner.watch()
    await anext(stream)
    handle.player.alive.clear()
    pods = {name: await inner.create_pod(handle.running(name, node="n0")) for name in ("image", "secret", "volume")}
    for name, reason, message in (
        ("image", "ImagePullBackOff", 'Back-off pulling image "nowhere/x:1"'),
        ("secret", "CreateContainerConfigError", 'secret "wandb" not found'),
    ):
        state = {"waiting": {"reason": reason, "message": message}}
        status = {"name": "main", "image": "x", "imageID": "", "restartCount": 0, "ready": False, "state": state}
        await handle.player.patch_status(handle.namespace, name, {"containerStatuses": [status]})
    event = {
        "metadata": {"name": "e1"},
        "involvedObject": {"uid": pods["volume"].uid},
        "reason": "FailedMount",
        "message": 'MountVolume.SetUp failed for volume "data": rpc error',
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }
    server.objects.create("events", handle.namespace, event)
    expected = {
        "image": PodReason.IMAGE_UNAVAILABLE,
        "secret": PodReason.SECRET_MISSING,
        "volume": PodReason.MOUNT_FAILED,
    }

    async def told() -> bool:
        return {pod.name: pod.reason for pod in await inner.list_pods()} == expected

    await eventually(told)
    messages = {pod.name: pod.message for pod in await inner.list_pods()}
    assert messages["image"] == 'Back-off pulling image "nowhere/x:1"'
    assert messages["volume"] == 'MountVolume.SetUp failed for volume "data": rpc error'
    assert server.ledger.calls["list", "events"] <= 4
    await stream.aclose()


async def test_logs_before_start_are_empty_and_followed_to_the_end(
    server: FakeKubernetes, handle: Any, eventually: Eventually
) -> None:
    inner = handle.cluster.inner
    await inner.create_pod(handle.running("p", node="n0"))
    assert [piece async for piece in inner.pod_logs("default", "p")] == []

    async def follow() -> bytes:
        return b"".join([piece async for piece in inner.pod_logs("default", "p", follow=True)])

    following = asyncio.create_task(follow())
    server.logs["p"] = b"one\ntwo\n"
    await handle.player.settle()

    async def read() -> bool:
        return server.ledger.calls["get", "pods/log"] > 0

    await eventually(read)
    server.logs["p"] += b"three\n"
    await handle.finish("p", 0)
    assert await following == b"one\ntwo\nthree\n"
    tail = b"".join([piece async for piece in inner.pod_logs("default", "p", tail_lines=1)])
    assert tail == b"three\n"


def _heartbeat(server: FakeKubernetes, name: str, beat: int) -> None:
    node = server.objects.get("nodes", "", name)
    conditions = [{**item, "lastHeartbeatTime": f"beat {beat}"} for item in node["status"]["conditions"]]
    server.objects.replace("nodes", {**node, "status": {**node["status"], "conditions": conditions}})
