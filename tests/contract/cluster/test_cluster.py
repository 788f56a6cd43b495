"""What every implementation of `Cluster` promises."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from longhaul_core.cluster import (
    DEFAULT_NAMESPACE,
    Cluster,
    ClusterEvent,
    Condition,
    ConditionStatus,
    EventKind,
    NodePatch,
    PodPhase,
    PodReason,
    PodSpec,
    Taint,
    Toleration,
)
from longhaul_core.errors import Aborted, AlreadyExists, InvalidArgument, NotFound

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
NS = DEFAULT_NAMESPACE
BAD = Taint("longhaul.dev/gpu-error", "fatal")


async def in_phase(cluster: Cluster, name: str, phase: PodPhase, namespace: str = NS) -> bool:
    return (await cluster.get_pod(namespace, name)).phase is phase


async def is_gone(cluster: Cluster, name: str) -> bool:
    try:
        await cluster.get_pod(NS, name)
    except NotFound:
        return True
    return False


class Watching:
    """Collects the hints of one watch."""

    def __init__(self, cluster: Cluster, **filters: Any) -> None:
        self.events: list[ClusterEvent] = []
        self._stream = cluster.watch(**filters)

    async def __aenter__(self) -> Watching:
        assert await anext(self._stream) == ClusterEvent(EventKind.RESYNC)
        self._task = asyncio.create_task(self._collect())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _collect(self) -> None:
        async for event in self._stream:
            self.events.append(event)

    async def saw(self, kind: EventKind, name: str) -> bool:
        """Whether the watcher was told to look at that object; a resync tells to look at all."""
        return ClusterEvent(EventKind.RESYNC) in self.events or await self.saw_exactly(kind, name)

    async def saw_exactly(self, kind: EventKind, name: str) -> bool:
        return any(event.kind is kind and event.name == name for event in self.events)


async def test_create_pod_bound_to_node_runs_there(handle: Any) -> None:
    await handle.add_node("n0", gpus=2, labels={"zone": "a"})
    spec = handle.running("p", node="n0", gpus=1, labels={"run": "r1"}, annotations={"note": "x"})
    pod = await handle.cluster.create_pod(spec)
    assert (pod.phase, pod.node, pod.gpus, pod.labels) == (PodPhase.RUNNING, "n0", 1, {"run": "r1"})
    assert pod.annotations["note"] == "x"
    assert pod.started_at is not None
    assert pod.pod_ip
    assert [p.uid for p in await handle.cluster.list_pods({"run": "r1"})] == [pod.uid]
    assert await handle.cluster.list_pods({"run": "other"}) == []
    [node] = await handle.cluster.list_nodes({"zone": "a"})
    assert (node.name, node.ready, node.gpus_total) == ("n0", True, 2)
    assert await handle.cluster.list_nodes({"zone": "b"}) == []


async def test_create_pod_of_taken_name_refused_whatever_its_phase(handle: Any, eventually: Eventually) -> None:
    await handle.add_node("n0")
    await handle.cluster.create_pod(handle.running("p"))
    with pytest.raises(AlreadyExists) as caught:
        await handle.cluster.create_pod(handle.running("p"))
    assert caught.value.reason == "POD_EXISTS"
    await handle.finish("p", 0)
    await eventually(lambda: in_phase(handle.cluster, "p", PodPhase.SUCCEEDED))
    with pytest.raises(AlreadyExists):
        await handle.cluster.create_pod(handle.running("p"))
    other = await handle.cluster.create_pod(handle.running("p", namespace="team-b"))
    assert [p.uid for p in await handle.cluster.list_pods(namespace="team-b")] == [other.uid]
    assert len(await handle.cluster.list_pods()) == 2


async def test_create_pod_raced_by_clients_exists_once(handle: Any) -> None:
    await handle.add_node("n0")
    clients = [handle.cluster, handle.another_client(), handle.another_client()]
    spec = handle.running("p", node="n0")
    outcomes = await asyncio.gather(*(client.create_pod(spec) for client in clients), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, AlreadyExists)]
    assert len(refused) == 2
    assert len(await handle.cluster.list_pods()) == 1


async def test_create_pod_malformed_names_every_field(handle: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await handle.cluster.create_pod(PodSpec(name="Bad Name", command=(), gpus=-1))
    assert [field for field, _ in caught.value.violations] == ["name", "command", "gpus"]


async def test_unknown_names_are_not_found(handle: Any) -> None:
    with pytest.raises(NotFound):
        await handle.cluster.create_pod(handle.running("p", node="nowhere"))
    with pytest.raises(NotFound):
        await handle.cluster.get_pod(NS, "p")
    with pytest.raises(NotFound):
        await handle.cluster.delete_pod(NS, "p")
    with pytest.raises(NotFound):
        await handle.cluster.get_node("nowhere")
    with pytest.raises(NotFound):
        await handle.cluster.patch_node("nowhere", NodePatch(unschedulable=True))
    with pytest.raises(NotFound):
        [piece async for piece in handle.cluster.pod_logs(NS, "p")]


@pytest.mark.parametrize(
    ("code", "phase", "reason"),
    [(0, PodPhase.SUCCEEDED, PodReason.COMPLETED), (75, PodPhase.FAILED, PodReason.ERROR)],
)
async def test_pod_that_ends_records_exit_code(
    handle: Any, eventually: Eventually, code: int, phase: PodPhase, reason: PodReason
) -> None:
    await handle.add_node("n0")
    await handle.cluster.create_pod(handle.running("p"))
    await handle.finish("p", code)
    await eventually(lambda: in_phase(handle.cluster, "p", phase))
    pod = await handle.cluster.get_pod(NS, "p")
    assert (pod.exit_code, pod.reason) == (code, reason)
    assert pod.finished_at is not None


async def test_bound_pod_beyond_gpus_of_node_fails(handle: Any) -> None:
    await handle.add_node("n0", gpus=2)
    await handle.cluster.create_pod(handle.running("a", node="n0", gpus=1))
    pod = await handle.cluster.create_pod(handle.running("b", node="n0", gpus=2))
    assert (pod.phase, pod.reason) == (PodPhase.FAILED, PodReason.OUT_OF_GPUS)
    assert (await handle.cluster.create_pod(handle.running("c", node="n0", gpus=1))).phase is PodPhase.RUNNING


async def test_unbound_pod_waits_for_room_then_starts(handle: Any, eventually: Eventually) -> None:
    await handle.add_node("n0")
    await handle.add_node("n1")
    assert (await handle.cluster.create_pod(handle.running("a", gpus=1))).node == "n0"
    assert (await handle.cluster.create_pod(handle.running("b", gpus=1))).node == "n1"
    waiting = await handle.cluster.create_pod(handle.running("c", gpus=1))
    assert (waiting.phase, waiting.reason, waiting.node) == (PodPhase.PENDING, PodReason.UNSCHEDULABLE, None)
    await handle.finish("b", 0)
    await eventually(lambda: in_phase(handle.cluster, "c", PodPhase.RUNNING))
    assert (await handle.cluster.get_pod(NS, "c")).node == "n1"


async def test_unbound_pod_is_deleted_while_it_waits(handle: Any, eventually: Eventually) -> None:
    await handle.add_node("n0")
    await handle.cluster.create_pod(handle.running("p", gpus=4))
    await handle.cluster.delete_pod(NS, "p")
    await eventually(lambda: is_gone(handle.cluster, "p"))


async def test_marks_keep_unbound_pods_away_but_not_bound_ones(handle: Any) -> None:
    await handle.add_node("n0", labels={"pool": "a"})
    await handle.add_node("n1", labels={"pool": "b"})
    await handle.cluster.patch_node("n0", NodePatch(taints_add=(BAD,)))
    assert (await handle.cluster.create_pod(handle.running("a"))).node == "n1"
    tolerant = handle.running("b", tolerations=(Toleration("longhaul.dev/gpu-error"),))
    assert (await handle.cluster.create_pod(tolerant)).node == "n0"
    assert (await handle.cluster.create_pod(handle.running("c", node="n0"))).phase is PodPhase.RUNNING
    await handle.cluster.patch_node("n1", NodePatch(unschedulable=True))
    assert (await handle.cluster.create_pod(handle.running("d"))).node is None
    await handle.cluster.patch_node("n0", NodePatch(taints_remove=(BAD,)))
    assert (await handle.cluster.create_pod(handle.running("e", node_selector={"pool": "a"}))).node == "n0"
    assert (await handle.cluster.create_pod(handle.running("f", node_selector={"pool": "c"}))).node is None


async def test_delete_pod_frees_name_and_gpus(handle: Any, eventually: Eventually) -> None:
    await handle.add_node("n0")
    first = await handle.cluster.create_pod(handle.running("p", node="n0", gpus=1))
    with pytest.raises(Aborted) as caught:
        await handle.cluster.delete_pod(NS, "p", uid="another")
    assert caught.value.reason == "UID_DIFFERS"
    await handle.cluster.delete_pod(NS, "p", uid=first.uid)
    await eventually(lambda: is_gone(handle.cluster, "p"))
    second = await handle.cluster.create_pod(handle.running("p", node="n0", gpus=1))
    assert second.phase is PodPhase.RUNNING
    assert second.uid != first.uid
    with pytest.raises(Aborted):
        await handle.cluster.delete_pod(NS, "p", uid=first.uid, force=True)
    await handle.cluster.delete_pod(NS, "p", uid=second.uid, force=True)
    assert await is_gone(handle.cluster, "p")


async def test_finished_pod_stays_until_deleted(handle: Any, eventually: Eventually) -> None:
    await handle.add_node("n0")
    await handle.cluster.create_pod(handle.running("p"))
    await handle.finish("p", 0)
    await eventually(lambda: in_phase(handle.cluster, "p", PodPhase.SUCCEEDED))
    await handle.cluster.delete_pod(NS, "p")
    await eventually(lambda: is_gone(handle.cluster, "p"))


async def test_dead_node_leaves_pods_unknown_until_forced(handle: Any, eventually: Eventually) -> None:
    await handle.add_node("n0")
    await handle.add_node("n1")
    pod = await handle.cluster.create_pod(handle.running("p", node="n0", gpus=1))
    await handle.kill_node("n0")
    assert not (await handle.cluster.get_node("n0")).ready
    unknown = await handle.cluster.get_pod(NS, "p")
    assert unknown.phase is PodPhase.UNKNOWN
    assert unknown.holds_gpus
    await handle.cluster.delete_pod(NS, "p", uid=pod.uid, grace_seconds=0)
    assert (await handle.cluster.get_pod(NS, "p")).deletion_requested
    await handle.cluster.delete_pod(NS, "p", uid=pod.uid, force=True)
    assert await is_gone(handle.cluster, "p")
    assert (await handle.cluster.create_pod(handle.running("p", node="n1"))).phase is PodPhase.RUNNING


async def test_node_that_returns_reports_its_pods_lost(handle: Any, eventually: Eventually) -> None:
    await handle.add_node("n0", gpus=2)
    before = await handle.cluster.patch_node("n0", NodePatch(taints_add=(BAD,), annotations={"why": "x"}))
    await handle.cluster.create_pod(handle.running("ran", node="n0", gpus=1))
    await handle.kill_node("n0")
    late = await handle.cluster.create_pod(handle.running("late", node="n0", gpus=2))
    assert late.phase is PodPhase.PENDING
    await handle.restart_node("n0")
    await eventually(lambda: in_phase(handle.cluster, "late", PodPhase.RUNNING))
    ran = await handle.cluster.get_pod(NS, "ran")
    assert (ran.phase, ran.reason, ran.exit_code) == (PodPhase.FAILED, PodReason.NODE_LOST, None)
    after = await handle.cluster.get_node("n0")
    assert (after.uid, after.taints, after.annotations["why"]) == (before.uid, (BAD,), "x")


async def test_terminating_pod_of_lost_node_goes_when_it_returns(handle: Any, eventually: Eventually) -> None:
    await handle.add_node("n0")
    await handle.cluster.create_pod(handle.running("p", node="n0"))
    await handle.kill_node("n0")
    await handle.cluster.delete_pod(NS, "p")
    assert (await handle.cluster.get_pod(NS, "p")).deletion_requested
    await handle.restart_node("n0")
    await eventually(lambda: is_gone(handle.cluster, "p"))


async def test_patch_node_changes_marks_and_version(handle: Any) -> None:
    await handle.add_node("n0", labels={"keep": "1"})
    node = await handle.cluster.get_node("n0")
    condition = Condition("GpuHealthy", ConditionStatus.FALSE, "XidFatal", "XID 79 on GPU 0")
    patch = NodePatch(
        unschedulable=True,
        taints_add=(BAD,),
        labels={"added": "2"},
        annotations={"longhaul.dev/by": "gpuhealth"},
        conditions=(condition,),
    )
    patched = await handle.cluster.patch_node("n0", patch, expected_version=node.resource_version)
    assert patched.resource_version != node.resource_version
    assert patched == await handle.cluster.get_node("n0")
    assert patched.unschedulable
    assert patched.has_taint(BAD.key)
    assert patched.labels == {"keep": "1", "added": "2"}
    assert patched.condition("GpuHealthy") == condition
    again = await handle.cluster.patch_node("n0", patch)
    assert again.resource_version == patched.resource_version
    undo = NodePatch(
        unschedulable=False,
        taints_remove=(BAD,),
        labels={"added": None},
        annotations={"longhaul.dev/by": None},
        conditions_remove=("GpuHealthy",),
    )
    restored = await handle.cluster.patch_node("n0", undo)
    assert (restored.unschedulable, restored.taints, restored.labels) == (False, (), {"keep": "1"})
    assert "longhaul.dev/by" not in restored.annotations
    assert restored.conditions == ()


async def test_patch_node_raced_on_one_version_wins_once(handle: Any) -> None:
    await handle.add_node("n0")
    version = (await handle.cluster.get_node("n0")).resource_version
    clients = [handle.cluster, handle.another_client(), handle.another_client()]
    outcomes = await asyncio.gather(
        *(
            client.patch_node("n0", NodePatch(annotations={"winner": str(index)}), expected_version=version)
            for index, client in enumerate(clients)
        ),
        return_exceptions=True,
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, Aborted)]
    assert [error.reason for error in refused] == ["NODE_CHANGED"] * 2
    winner = (await handle.cluster.get_node("n0")).annotations["winner"]
    assert not isinstance(outcomes[int(winner)], Exception)


async def test_patch_node_that_is_dead_keeps_for_its_return(handle: Any) -> None:
    await handle.add_node("n0")
    await handle.kill_node("n0")
    patched = await handle.cluster.patch_node("n0", NodePatch(taints_add=(BAD,)))
    assert not patched.ready
    await handle.restart_node("n0")
    assert (await handle.cluster.get_node("n0")).has_taint(BAD.key)


async def test_watch_hints_at_pods_and_nodes_of_other_clients(handle: Any, eventually: Eventually) -> None:
    await handle.add_node("n0")
    other = handle.another_client()
    async with Watching(handle.cluster, labels={"run": "r1"}) as watching:
        await other.create_pod(handle.running("mine", labels={"run": "r1"}))
        await eventually(lambda: watching.saw(EventKind.POD, "mine"))
        await other.create_pod(handle.running("foreign", labels={"run": "r2"}))
        await other.patch_node("n0", NodePatch(unschedulable=True))
        await eventually(lambda: watching.saw(EventKind.NODE, "n0"))
        watching.events.clear()
        await handle.finish("mine", 3)
        await eventually(lambda: watching.saw(EventKind.POD, "mine"))
        await eventually(lambda: in_phase(handle.cluster, "mine", PodPhase.FAILED))
        watching.events.clear()
        await other.delete_pod(NS, "mine")
        await eventually(lambda: watching.saw(EventKind.POD, "mine"))
        assert not await watching.saw_exactly(EventKind.POD, "foreign")


async def test_watch_hints_at_node_that_dies_returns_or_is_new(handle: Any, eventually: Eventually) -> None:
    await handle.add_node("n0")
    async with Watching(handle.cluster) as watching:
        await handle.kill_node("n0")
        await eventually(lambda: watching.saw(EventKind.NODE, "n0"))
        watching.events.clear()
        await handle.restart_node("n0")
        await eventually(lambda: watching.saw(EventKind.NODE, "n0"))
        await handle.add_node("n1")
        await eventually(lambda: watching.saw(EventKind.NODE, "n1"))
