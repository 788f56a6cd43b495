from __future__ import annotations

import random

from longhaul_training.domain.placement import (
    Capacity,
    Claim,
    NodeCapacity,
    SpareDemand,
    capacity_of,
    place,
    spares_that_fit,
)

NODES = [NodeCapacity("a", 8), NodeCapacity("b", 8), NodeCapacity("c", 4, "slow")]


def test_pod_seen_in_database_and_cluster_counts_once() -> None:
    claims = [Claim("p1", "a", 4), Claim("p1", "a", 4), Claim("p2", "a", 2), Claim("gone", "z", 8)]
    assert capacity_of(NODES, claims).free == {"a": 2, "b": 8, "c": 4}


def test_pods_take_nodes_of_their_own_before_they_share_one() -> None:
    assert place(Capacity({"a": 8, "b": 8}), 2, 4) == ("a", "b")
    assert place(Capacity({"a": 8}), 2, 4) == ("a", "a")
    assert place(Capacity({"a": 8}), 3, 4) is None


def test_fullest_node_that_fits_is_taken_first() -> None:
    assert place(Capacity({"a": 8, "b": 2, "c": 4}), 1, 2) == ("b",)


def test_pods_without_gpus_spread_over_the_nodes() -> None:
    claims: list[Claim] = [Claim("run", "a", 8)]
    for number in range(6):
        (node,) = place(capacity_of(NODES, claims), 1, 0) or ("",)
        claims.append(Claim(f"score-{number}", node, 0))
    assert sorted(claim.node for claim in claims[1:]) == ["a", "a", "b", "b", "c", "c"]
    assert place(capacity_of(NODES, claims), 1, 4) == ("c",), "they take nothing from those with GPUs"


def test_pool_limits_the_choice() -> None:
    assert place(capacity_of(NODES, []), 1, 4, pool="slow") == ("c",)
    assert place(capacity_of(NODES, []), 2, 4, pool="slow") is None


def test_avoided_node_is_the_last_resort() -> None:
    assert place(Capacity({"a": 1, "b": 1}), 1, 1, avoid=["a"]) == ("b",)
    assert place(Capacity({"a": 1}), 1, 1, avoid=["a"]) == ("a",)


def test_spares_are_kept_whole_and_their_owner_may_use_them() -> None:
    capacity = Capacity({"a": 1, "b": 1}, {}, (SpareDemand("run", 1, 1),))
    assert place(capacity, 1, 1) == ("a",)
    assert place(capacity, 2, 1) is None
    assert place(capacity.keeping_spares_of("run"), 2, 1) == ("a", "b")


def test_spares_of_different_sizes_must_fit_together() -> None:
    demands = (SpareDemand("x", 1, 4), SpareDemand("y", 2, 2))
    assert spares_that_fit(Capacity({"a": 4, "b": 4}, {}, demands)) == [4, 2, 2]
    assert spares_that_fit(Capacity({"a": 4, "b": 3}, {}, demands)) == [4, 2]


def test_node_that_no_spare_can_use_is_free_for_others() -> None:
    demand = SpareDemand("run", 1, 1, frozenset({"bad"}))
    assert place(Capacity({"bad": 1}, {}, (demand,)), 1, 1) == ("bad",)
    both = Capacity({"bad": 1, "good": 1}, {}, (demand,))
    assert place(both, 1, 1) == ("bad",)
    assert place(both, 2, 1) is None, "the good one is kept for the spare"
    assert place(Capacity({"small": 2}, {}, (SpareDemand("run", 1, 4),)), 1, 2) == ("small",)


def test_spares_that_shun_different_nodes_are_all_kept() -> None:
    demands = (SpareDemand("x", 1, 1), SpareDemand("y", 1, 1, frozenset({"a"})))
    capacity = Capacity({"a": 1, "b": 1, "c": 1}, {}, demands)
    assert spares_that_fit(capacity) == [1, 1]
    assert place(capacity, 1, 1) is not None
    assert place(Capacity({"a": 1, "b": 1}, {}, demands), 1, 1) is None


def test_no_gpu_is_placed_twice_whatever_comes_and_goes() -> None:
    rng = random.Random(7)
    for _ in range(200):
        nodes = [NodeCapacity(f"n{i}", rng.choice([1, 2, 4, 8])) for i in range(rng.randint(1, 6))]
        claims: list[Claim] = []
        for number in range(30):
            gpus = rng.choice([1, 2, 4])
            chosen = place(capacity_of(nodes, claims), rng.randint(1, 3), gpus)
            claims += [Claim(f"{number}-{i}", node, gpus) for i, node in enumerate(chosen or ())]
            if claims and rng.random() < 0.3:
                claims.pop(rng.randrange(len(claims)))
            for node in nodes:
                assert sum(c.gpus for c in claims if c.node == node.name) <= node.gpus
