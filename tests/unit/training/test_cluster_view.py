"""What the controller makes of nodes and pods that it sees."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from longhaul_core.clock import ManualClock
from longhaul_core.cluster import FakeCluster, NodePatch, PodSpec, Taint, Toleration
from longhaul_core.cluster.liveness import LivenessRule
from longhaul_training.adapters.cluster_view import ClusterView, ViewOptions
from longhaul_training.adapters.pod_specs import managed
from longhaul_training.domain.placement import capacity_of
from longhaul_training.domain.states import RunSpec

OURS = managed("mine")
GPU_TAINT = Taint("nvidia.com/gpu", "present")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cluster(clock: ManualClock) -> FakeCluster:
    made = FakeCluster(clock, stubborn={"stuck"})
    for name, rack in (("a", "r0"), ("b", "r0"), ("c", "r1")):
        made.add_node(name, gpus=2, labels={"rack": rack, "longhaul.dev/pool": "train"})
    return made


@pytest.fixture
def view(cluster: FakeCluster, clock: ManualClock) -> ClusterView:
    options = ViewOptions("mine", (Toleration("nvidia.com/gpu"),), liveness=LivenessRule(silence=60.0))
    return ClusterView(cluster, clock, lambda: None, options)


async def test_pods_of_others_are_left_alone_but_their_gpus_are_taken(cluster: FakeCluster, view: ClusterView) -> None:
    await cluster.create_pod(PodSpec("ours", ("x",), node="a", gpus=1, labels=OURS))
    await cluster.create_pod(PodSpec("theirs", ("x",), node="a", gpus=1, labels=managed("another")))
    await cluster.create_pod(PodSpec("notebook", ("x",), node="b", gpus=2))
    seen = await view.snapshot()
    assert [pod.name for pod in seen.pods] == ["ours"]
    assert capacity_of(seen.capacities(), seen.claims()).free == {"a": 0, "b": 0, "c": 2}


async def test_taint_that_every_pod_tolerates_hides_no_node(cluster: FakeCluster, view: ClusterView) -> None:
    await cluster.patch_node("a", NodePatch(taints_add=(GPU_TAINT,)))
    await cluster.patch_node("b", NodePatch(taints_add=(Taint("team", "x"),)))
    seen = await view.snapshot()
    assert [node.name for node in seen.capacities()] == ["a", "c"]
    spec = RunSpec(1, 1, tolerations=(("team", "x"),))
    assert [node.name for node in seen.capacities(spec)] == ["a", "b", "c"]
    assert not seen.node_views({})["b"].schedulable
    assert seen.views_for(spec, seen.node_views({}))["b"].schedulable


async def test_selector_and_topology_restrict_where_a_run_may_go(view: ClusterView) -> None:
    seen = await view.snapshot()
    capacity = capacity_of(seen.capacities(), [])
    chosen = seen.restricted(capacity, RunSpec(1, 1, node_selector=(("rack", "r1"),)))
    assert chosen.allowed == {"c"}
    assert seen.restricted(capacity, RunSpec(1, 1, topology_label="rack")).groups == {"a": "r0", "b": "r0", "c": "r1"}


async def test_pod_stuck_on_a_node_is_removed_only_once_the_node_is_dead(
    cluster: FakeCluster, clock: ManualClock, view: ClusterView
) -> None:
    def unheard(_: str) -> float | None:
        return None

    def heard(_: str) -> float | None:
        return 1.0

    async def stuck(silence: Callable[[str], float | None]) -> list[str]:
        view.mark_dirty()
        return [pod.name for pod, _ in (await view.snapshot()).stuck(clock.now(), silence)]

    await cluster.create_pod(PodSpec("stuck", ("x",), node="a", labels=OURS))
    await cluster.delete_pod("default", "stuck")
    clock.advance(600)
    assert await stuck(unheard) == []
    cluster.kill_node("a")
    clock.advance(59)
    assert await stuck(unheard) == []
    clock.advance(2)
    assert await stuck(heard) == []
    assert await stuck(unheard) == ["stuck"]


async def test_view_that_is_too_old_proves_no_death(
    cluster: FakeCluster, clock: ManualClock, view: ClusterView, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.create_pod(PodSpec("stuck", ("x",), node="a", labels=OURS))
    await cluster.delete_pod("default", "stuck")
    cluster.kill_node("a")
    clock.advance(timedelta(hours=1).total_seconds())
    monkeypatch.setattr(FakeCluster, "staleness", lambda self: 100.0)
    seen = await view.snapshot()
    assert seen.blind
    assert seen.stuck(clock.now(), lambda pod: None) == []
