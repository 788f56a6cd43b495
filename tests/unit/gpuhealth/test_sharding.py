"""Nodes over replicas: every shard has one holder, and all have about as many."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longhaul_core.errors import InvalidArgument
from longhaul_gpuhealth.adapters.discovery import read_list
from longhaul_gpuhealth.domain.budget import Budget, BudgetPolicy, Refusal, fleet_around
from longhaul_gpuhealth.domain.sharding import fair_share, shard_of


def test_nodes_spread_over_all_shards() -> None:
    assert {shard_of(f"gpu-node-{index:04}", 16) for index in range(1000)} == set(range(16))


@given(replicas=st.integers(1, 20), shards=st.integers(1, 64))
def test_replicas_that_join_one_after_another_end_with_fair_parts(replicas: int, shards: int) -> None:
    owned: list[set[int]] = [set() for _ in range(replicas)]
    for _ in range(3):
        for mine in owned:
            share = fair_share(mine, set(range(shards)) - set().union(*owned), replicas, shards)
            mine -= set(share.give_back)
            mine |= set(share.take)
    assert sorted(shard for mine in owned for shard in mine) == list(range(shards))
    assert max(map(len, owned)) <= -(-shards // replicas)


def test_pool_keeps_half_of_its_nodes_whatever_the_cluster_allows() -> None:
    policy = BudgetPolicy()
    pools = ["small"] * 6 + ["large"] * 94
    budget, refusals = Budget(), []
    for index in range(5):
        fleet = fleet_around("small", pools)
        budget, refusal = budget.ask(policy, f"s{index}", fleet, 100.0 + 400.0 * index)
        refusals.append(refusal)
    assert refusals == [None, None, None, Refusal.POOL_EXHAUSTED, Refusal.POOL_EXHAUSTED]
    budget, refusal = budget.ask(policy, "l0", fleet_around("large", pools), 3000.0)
    assert refusal is None
    budget, refusal = budget.withdraw("s0").ask(policy, "s4", fleet_around("small", pools), 4000.0)
    assert refusal is None


def test_pool_window_is_its_own() -> None:
    policy = BudgetPolicy()
    pools = ["small"] * 6 + ["large"] * 94
    budget, refusals = Budget(), []
    for index in range(3):
        budget, refusal = budget.ask(policy, f"s{index}", fleet_around("small", pools), 100.0 + index)
        refusals.append(refusal)
    assert refusals == [None, None, Refusal.POOL_EXHAUSTED]


def test_settling_grants_nothing_and_counts_towards_the_breaker() -> None:
    budget, last = Budget(), None
    for index in range(6):
        fleet = fleet_around("", [""] * 10)
        budget, last = budget.ask(BudgetPolicy(), f"n{index}", fleet, 100.0, settling=True)
    assert last is Refusal.BREAKER_OPEN
    assert budget.out == ()


def test_asking_again_for_a_node_that_is_out_uses_no_more_budget() -> None:
    fleet = fleet_around("", [""] * 10)
    once, _ = Budget().ask(BudgetPolicy(), "n0", fleet, 100.0)
    assert once.ask(BudgetPolicy(), "n0", fleet, 101.0) == (once, None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- a\n", "no mapping"),
        ("n0: ftp://x\n", "'n0' has 'ftp://x'"),
        ("n0: http://x\nn0: http://y\n", "line 2, column 1: 'n0' is given twice"),
        ("n0: [http://x\n", "line 2"),
    ],
)
def test_exporter_list_with_a_fault_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(text)
    with pytest.raises(InvalidArgument, match=says.replace("[", "\\[")):
        read_list(path)
