"""Which document is dropped for which, and the split by cluster."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from longhaul_core.errors import FailedPrecondition
from longhaul_corpus.domain.clusters import DisjointSets, keepers
from longhaul_corpus.domain.duplicates import DocumentKeys, DuplicatePolicy, DuplicateRule, Duplicates, find_duplicates
from longhaul_corpus.domain.split import SplitPolicy, hold_out

EXACT, URL, NEAR, NONE = (
    DuplicateRule.EXACT_TEXT,
    DuplicateRule.SAME_URL,
    DuplicateRule.NEAR_DUPLICATE,
    DuplicateRule.NONE,
)


def keys(texts: Sequence[int], urls: Sequence[int], lengths: Sequence[int]) -> DocumentKeys:
    return DocumentKeys(
        text_high=np.array(texts, dtype=np.uint64) // 10,
        text_low=np.array(texts, dtype=np.uint64) % 10,
        url=np.array(urls, dtype=np.uint64),
        lengths=np.array(lengths, dtype=np.int64),
        banded=np.ones(len(texts), dtype=np.bool_),
    )


def find(policy: DuplicatePolicy) -> Duplicates:
    """Six documents: 0 and 2 of one text, 1 and 3 of one URL, 2 and 4 near copies, 5 alone."""
    bands = [np.array([1, 2, 3, 4, 3, 6], dtype=np.uint64), np.array([11, 12, 13, 14, 15, 16], dtype=np.uint64)]
    return find_duplicates(keys([7, 8, 7, 9, 17, 18], [0, 5, 0, 5, 0, 0], [10, 20, 10, 30, 40, 5]), bands, policy)


def test_duplicates_keep_the_longest_and_name_the_strictest_rule() -> None:
    found = find(DuplicatePolicy())
    assert found.kept.tolist() == [4, 3, 4, 3, 4, 5]
    assert found.rules.tolist() == [NEAR, URL, NEAR, NONE, NONE, NONE]
    assert found.clusters.tolist() == [0, 1, 0, 1, 0, 5]


def test_duplicates_keep_the_first_where_told_so() -> None:
    found = find(DuplicatePolicy(keep_longest=False))
    assert found.kept.tolist() == [0, 1, 0, 1, 0, 5]
    assert found.rules.tolist() == [NONE, NONE, EXACT, URL, NEAR, NONE]


def test_duplicates_without_near_rule_stay_but_share_their_cluster() -> None:
    found = find(DuplicatePolicy(near=False))
    assert found.rules.tolist() == [NONE, URL, EXACT, NONE, NONE, NONE]
    assert found.clusters.tolist() == [0, 1, 0, 1, 0, 5]


def test_duplicates_switched_off_drop_nothing() -> None:
    assert find(DuplicatePolicy(exact=False, url=False, near=False)).stays.all()


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=60))
@settings(deadline=None)
def test_disjoint_sets_agree_with_a_search_of_the_graph(edges: list[tuple[int, int]]) -> None:
    sets = DisjointSets(31)
    for a, b in edges:
        present = np.zeros(31, dtype=np.bool_)
        present[[a, b]] = True
        sets.join_equal(np.zeros(31, dtype=np.uint64), present)
    labels = sets.labels()
    for start in range(31):
        reached, front = {start}, [start]
        while front:
            node = front.pop()
            near = {b for a, b in edges if a == node} | {a for a, b in edges if b == node}
            front += near - reached
            reached |= near
        assert labels[start] == min(reached)


def test_keepers_break_ties_by_order() -> None:
    labels = np.array([0, 0, 0, 3])
    assert keepers(labels, np.array([5, 9, 9, 1]), longest=True).tolist() == [1, 1, 1, 3]


def split(*, fraction: float = 0.1, minimum: int = 1, maximum: int = 0, seed: int = 0) -> SplitPolicy:
    return SplitPolicy(fraction, minimum, maximum, seed)


def held_out(policy: SplitPolicy, clusters: np.ndarray, sources: np.ndarray | None = None) -> np.ndarray:
    count = len(clusters)
    content = np.random.default_rng(0).integers(0, 2**63, count).astype(np.uint64)
    where = np.zeros(count, dtype=np.int64) if sources is None else sources
    return hold_out(np.ones(count, dtype=np.bool_), clusters, where, content, policy)


def test_hold_out_takes_the_fraction_of_each_source() -> None:
    sources = np.repeat([0, 1], [300, 100])
    chosen = held_out(split(), np.arange(400), sources)
    assert [int(chosen[sources == source].sum()) for source in (0, 1)] == [30, 10]


def test_hold_out_never_parts_a_cluster() -> None:
    clusters = np.repeat(np.arange(0, 300, 3), 3)
    chosen = held_out(split(), clusters)
    assert 30 <= chosen.sum() <= 32
    assert len(set(clusters[chosen]) & set(clusters[~chosen])) == 0


def test_hold_out_obeys_bounds_and_seed() -> None:
    clusters = np.arange(500)
    assert held_out(split(maximum=7), clusters).sum() == 7
    assert held_out(split(fraction=0.001, minimum=4), clusters).sum() == 4
    first, again, other = (held_out(split(seed=seed), clusters) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_hold_out_of_too_few_documents_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match="1 documents are left") as refused:
        held_out(split(), np.arange(1))
    assert refused.value.reason == "TOO_FEW_DOCUMENTS"


def test_hold_out_of_one_cluster_is_refused() -> None:
    with pytest.raises(FailedPrecondition) as refused:
        held_out(split(), np.zeros(5, dtype=np.int64))
    assert refused.value.reason == "TOO_FEW_CLUSTERS"
