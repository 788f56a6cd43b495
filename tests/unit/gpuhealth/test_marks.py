"""Marks on nodes, on the in-memory cluster: contention, foreign marks, repetition."""

from __future__ import annotations

import asyncio

import pytest
from longhaul_core.clock import ManualClock
from longhaul_core.cluster import FakeCluster, NodePatch, Taint
from longhaul_gpuhealth.adapters.marks import SESSION, TAINT, UNDO, Marker, facts_of
from longhaul_gpuhealth.domain.record import Origin, Quarantine

FOREIGN = Taint("example.com/maintenance", "soon")


def quarantine(session: str = "s1") -> Quarantine:
    return Quarantine(session, Origin.VERDICT, 1_000_000.0, "XID 79 on GPU 0", "gpuhealth")


@pytest.fixture
def cluster() -> FakeCluster:
    cluster = FakeCluster(ManualClock())
    cluster.add_node("n0", gpus=8)
    return cluster


@pytest.fixture
def marker(cluster: FakeCluster) -> Marker:
    return Marker(cluster, ManualClock())


async def test_mark_and_unmark_leave_the_node_as_it_was(cluster: FakeCluster, marker: Marker) -> None:
    await cluster.patch_node("n0", NodePatch(taints_add=(FOREIGN,), annotations={"owner": "me"}))
    before = await cluster.get_node("n0")
    marked = await marker.mark("n0", quarantine())
    assert marked.unschedulable
    assert marked.taints == (FOREIGN, TAINT)
    assert not facts_of(marked, idle=False, pool_label="", exporter_url="").schedulable
    after = await marker.unmark("n0", "s1")
    assert (after.unschedulable, after.taints, after.annotations) == (False, before.taints, before.annotations)


async def test_marking_twice_changes_nothing(cluster: FakeCluster, marker: Marker) -> None:
    first = await marker.mark("n0", quarantine())
    assert await marker.mark("n0", quarantine()) == first


async def test_unmark_of_another_session_changes_nothing(cluster: FakeCluster, marker: Marker) -> None:
    marked = await marker.mark("n0", quarantine())
    assert await marker.unmark("n0", "s2") == marked


async def test_cordon_and_taint_of_others_are_not_undone(cluster: FakeCluster, marker: Marker) -> None:
    await cluster.patch_node("n0", NodePatch(unschedulable=True, taints_add=(TAINT,)))
    await marker.mark("n0", quarantine())
    after = await marker.unmark("n0", "s1")
    assert after.unschedulable
    assert after.taints == (TAINT,)


async def test_later_session_inherits_what_is_ours_to_undo(cluster: FakeCluster, marker: Marker) -> None:
    await marker.mark("n0", quarantine("s1"))
    taken_over = await marker.mark("n0", quarantine("s2"))
    assert taken_over.annotations[SESSION] == "s2"
    assert taken_over.annotations[UNDO] == "cordon,taint"
    after = await marker.unmark("n0", "s2")
    assert (after.unschedulable, after.taints) == (False, ())


async def test_marks_survive_writers_that_race(cluster: FakeCluster, marker: Marker) -> None:
    others = (cluster.patch_node("n0", NodePatch(annotations={f"other-{index}": "x"})) for index in range(5))
    await asyncio.gather(marker.mark("n0", quarantine()), *others)
    node = await cluster.get_node("n0")
    assert node.has_taint(TAINT.key)
    assert {f"other-{index}" for index in range(5)} <= set(node.annotations)
