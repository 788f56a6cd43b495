"""List and watch through every way in which they break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fakekube import FakeKubernetes, Fault
from longhaul_core.cluster import ClusterEvent, EventKind, NodePatch, PodPhase
from longhaul_core.errors import NotFound, PermissionDenied, Unavailable

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


@asynccontextmanager
async def watching(cluster: Any) -> AsyncIterator[list[ClusterEvent]]:
    """A watch that stands, and what it has said so far."""
    events: list[ClusterEvent] = []
    stream = cluster.watch()
    assert await anext(stream) == ClusterEvent(EventKind.RESYNC)

    async def collect() -> None:
        async for event in stream:
            events.append(event)

    task = asyncio.create_task(collect())
    try:
        yield events
    finally:
        task.cancel()
        await asyncio.wait([task])
        await stream.aclose()


async def see(eventually: Eventually, cluster: Any, name: str) -> None:
    """Wait until the cache shows a node of that name, and prove that it was the cache."""

    async def shown() -> bool:
        return any(node.name == name for node in await cluster.list_nodes())

    await eventually(shown)


async def test_watch_serves_reads_without_calls(server: FakeKubernetes, handle: Any, eventually: Eventually) -> None:
    await handle.cluster.create_pod(handle.running("p", node="n0", gpus=1))
    async with watching(handle.cluster):
        before = server.ledger.total()
        for _ in range(50):
            assert (await handle.cluster.get_pod("default", "p")).phase is PodPhase.RUNNING
            assert len(await handle.cluster.list_nodes()) == 2
            assert len(await handle.cluster.list_pods()) == 1
        assert server.ledger.total() - before <= 2, "only the watches' own windows may end meanwhile"
    assert handle.cluster.staleness() == 0.0


async def test_watch_cut_in_middle_of_line_resumes_without_list(
    server: FakeKubernetes, handle: Any, eventually: Eventually
) -> None:
    async with watching(handle.cluster):
        lists = server.ledger.calls["list", "nodes"]
        for round_ in range(3):
            await eventually(lambda: _more(server.ledger.calls, ("watch", "nodes"), round_))  # noqa: B023
            server.cut_watches()
            await handle.add_node(f"late-{round_}")
            await see(eventually, handle.cluster, f"late-{round_}")
        assert server.ledger.calls["list", "nodes"] == lists
        assert server.ledger.calls["watch", "nodes"] >= 4


@pytest.mark.parametrize("late", [True, False], ids=["in the stream", "as the answer"])
async def test_watch_whose_history_is_gone_lists_again(
    server: FakeKubernetes, handle: Any, eventually: Eventually, late: bool
) -> None:
    async with watching(handle.cluster) as events:
        lists = server.ledger.calls["list", "pods"]
        server.late_410 = not late
        await server.stop()
        server.objects.create("nodes", "", {"metadata": {"name": "unseen"}, "spec": {}, "status": {}})
        server.objects.remove("nodes", server.objects.get("nodes", "", "n1"))
        server.objects.version += 10
        server.objects.compact()
        await server.start()
        await see(eventually, handle.cluster, "unseen")
        with pytest.raises(NotFound):
            await handle.cluster.get_node("n1")
        assert ClusterEvent(EventKind.RESYNC) in events
        await eventually(lambda: _more(server.ledger.calls, ("list", "pods"), lists))


async def _more(counts: Any, key: tuple[str, str], than: int) -> bool:
    return counts[key] > than


@pytest.mark.parametrize("status", [429, 500, 503, 0])
async def test_watch_refused_for_now_goes_on(
    server: FakeKubernetes, handle: Any, eventually: Eventually, status: int
) -> None:
    async with watching(handle.cluster):
        fault = Fault("watch", "nodes", status=status, times=3)
        server.ledger.faults.append(fault)
        server.cut_watches()
        await handle.add_node("late")
        await see(eventually, handle.cluster, "late")
        assert fault.fired == 3


async def test_list_refused_for_now_is_repeated(server: FakeKubernetes, handle: Any) -> None:
    fault = Fault("list", "nodes", status=429, retry_after=0, times=2)
    server.ledger.faults.append(fault)
    async with watching(handle.cluster):
        assert len(await handle.cluster.list_nodes()) == 2
    assert fault.fired == 2


async def test_api_server_away_cache_is_served_with_its_age(
    server: FakeKubernetes, handle: Any, eventually: Eventually
) -> None:
    pod = await handle.cluster.create_pod(handle.running("p", node="n0", gpus=1))
    async with watching(handle.cluster) as events:
        assert handle.cluster.staleness() < 1.0
        await server.stop()

        async def old() -> bool:
            return handle.cluster.staleness() > 1.5

        await eventually(old)
        assert [node.ready for node in await handle.cluster.list_nodes()] == [True, True]
        assert [(seen.uid, seen.phase) for seen in await handle.cluster.list_pods()] == [(pod.uid, PodPhase.RUNNING)]
        with pytest.raises(Unavailable) as caught:
            await handle.cluster.create_pod(handle.running("q"))
        assert caught.value.reason == "CLUSTER_UNREACHABLE"
        assert events == [], "nothing was known to change"
        await server.start()

        async def fresh() -> bool:
            return handle.cluster.staleness() < 1.0

        await eventually(fresh)
        assert handle.cluster.staleness() < 1.0


async def test_api_server_that_hangs_is_noticed(server: FakeKubernetes, handle: Any, eventually: Eventually) -> None:
    """A half-open connection: everything is accepted, nothing answered."""
    async with watching(handle.cluster):
        server.answering.clear()

        async def old() -> bool:
            return handle.cluster.staleness() > 2.0

        await eventually(old)
        assert len(await handle.cluster.list_nodes()) == 2
        server.answering.set()
        await handle.add_node("late")
        await see(eventually, handle.cluster, "late")


async def test_api_server_away_at_start_is_unavailable(server: FakeKubernetes, handle: Any) -> None:
    await server.stop()
    with pytest.raises(Unavailable):
        await anext(handle.cluster.watch())
    with pytest.raises(Unavailable):
        await handle.cluster.list_nodes()
    await server.start()
    async with watching(handle.cluster):
        assert len(await handle.cluster.list_nodes()) == 2


async def test_watch_forbidden_names_the_rule_to_add(server: FakeKubernetes, handle: Any) -> None:
    server.ledger.denied.add(("list", "nodes"))
    with pytest.raises(PermissionDenied) as caught:
        await anext(handle.cluster.watch())
    assert caught.value.metadata == {"verb": "list", "resource": "nodes", "namespace": ""}
    assert 'a ClusterRole with the rule {apiGroups: [""], resources: ["nodes"], verbs: ["list"]}' in caught.value.action


async def test_nodes_silent_after_outage_are_believed_only_when_they_stay_silent(
    server: FakeKubernetes, handle: Any, eventually: Eventually
) -> None:
    """The node controller lost sight of the kubelets in the same outage; n0 reports again, n1 does not."""
    await handle.cluster.create_pod(handle.running("p", node="n1", gpus=1))
    async with watching(handle.cluster) as events:
        await server.stop()

        async def old() -> bool:
            return handle.cluster.staleness() > 0.8

        await eventually(old)
        _write_ready(server, "n0", "Unknown")
        _write_ready(server, "n1", "Unknown")
        await server.start()

        async def fresh() -> bool:
            return handle.cluster.staleness() < 0.3

        await eventually(fresh)
        assert [node.ready for node in await handle.cluster.list_nodes()] == [True, True]
        assert (await handle.cluster.get_pod("default", "p")).phase is PodPhase.RUNNING
        _write_ready(server, "n0", "True")

        async def settled() -> bool:
            return ClusterEvent(EventKind.NODE, "n1") in events

        await eventually(settled)
        assert [node.ready for node in await handle.cluster.list_nodes()] == [True, False]
        assert (await handle.cluster.get_pod("default", "p")).phase is PodPhase.UNKNOWN
        assert ClusterEvent(EventKind.NODE, "n0") not in events


async def test_node_silent_while_watched_is_believed_at_once(handle: Any, eventually: Eventually) -> None:
    await handle.cluster.create_pod(handle.running("p", node="n0", gpus=1))
    async with watching(handle.cluster) as events:
        await handle.kill_node("n0")

        async def told() -> bool:
            return ClusterEvent(EventKind.POD, "p", handle.namespace) in events

        await eventually(told)
        node = await handle.cluster.get_node("n0")
        assert not node.ready
        assert node.silent_since is not None
        pod = await handle.cluster.get_pod("default", "p")
        assert pod.phase is PodPhase.UNKNOWN
        assert pod.holds_gpus


async def test_node_that_says_it_is_not_ready_keeps_its_pods_known(
    server: FakeKubernetes, handle: Any, eventually: Eventually
) -> None:
    await handle.cluster.create_pod(handle.running("p", node="n0"))
    _write_ready(server, "n0", "False")
    node = await handle.cluster.get_node("n0")
    assert (node.ready, node.silent_since) == (False, None)
    assert (await handle.cluster.get_pod("default", "p")).phase is PodPhase.RUNNING


async def test_own_writes_are_seen_before_the_watch_tells(
    server: FakeKubernetes, handle: Any, eventually: Eventually
) -> None:
    async with watching(handle.cluster):
        await server.stop()
        await server.start()
        inner = handle.cluster.inner
        pod = await inner.create_pod(handle.running("p", node="n0", gpus=2))
        assert (await inner.get_pod("default", "p")).uid == pod.uid
        patched = await inner.patch_node("n0", NodePatch(unschedulable=True))
        assert patched.unschedulable
        assert (await inner.get_node("n0")).unschedulable
        await inner.delete_pod("default", "p", pod.uid, force=True)
        assert await inner.list_pods() == []
        again = await inner.create_pod(handle.running("p", node="n0", gpus=2))
        assert [seen.uid for seen in await inner.list_pods()] == [again.uid]


async def test_heartbeats_of_kubelets_give_no_hints(
    server: FakeKubernetes, handle: Any, eventually: Eventually
) -> None:
    async with watching(handle.cluster) as events:
        for beat in range(20):
            node = server.objects.get("nodes", "", "n0")
            ready = [{**node["status"]["conditions"][0], "lastHeartbeatTime": f"beat {beat}"}]
            server.objects.replace("nodes", {**node, "status": {**node["status"], "conditions": ready}})
        await handle.add_node("late")
        await see(eventually, handle.cluster, "late")
        assert ClusterEvent(EventKind.NODE, "n0") not in events


async def test_watch_forbidden_in_the_middle_ages_and_recovers(
    server: FakeKubernetes, handle: Any, eventually: Eventually
) -> None:
    async with watching(handle.cluster):
        server.ledger.denied.add(("watch", "nodes"))
        server.cut_watches()

        async def old() -> bool:
            return handle.cluster.staleness() > 0.8

        await eventually(old)
        assert len(await handle.cluster.list_nodes()) == 2
        server.ledger.denied.clear()
        await handle.add_node("late")
        await see(eventually, handle.cluster, "late")


def _write_ready(server: FakeKubernetes, name: str, status: str) -> None:
    node = server.objects.get("nodes", "", name)
    condition = {"type": "Ready", "status": status, "reason": "x", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    server.objects.replace("nodes", {**node, "status": {**node["status"], "conditions": [condition]}})
