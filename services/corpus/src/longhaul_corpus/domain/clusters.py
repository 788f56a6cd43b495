"""Clusters of documents that share a key (text hash, URL, band digest): sort-and-join, then union-find over arrays.

Memory: 4 bytes a document for the forest plus one band at a time (8 bytes a document and its sort order), so a million
documents need less than 50 MB whatever the number of bands.
"""

import numpy as np
import numpy.typing as npt
from longhaul_core.compiled import compiled

from longhaul_corpus.domain.hashing import Hashes

Ordinals = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class DisjointSets:
    """Union-find over document ordinals; the root of a set is its lowest ordinal."""

    def __init__(self, count: int) -> None:
        self._parents = np.arange(count, dtype=np.uint32)

    def join_equal(self, keys: Hashes, present: Mask) -> int:
        """Join all documents with equal keys among those `present`; returns how many unions changed the forest."""
        members = np.flatnonzero(present)
        order = members[np.argsort(keys[members], kind="stable")]
        return int(_join_runs(self._parents, keys, order))

    def labels(self) -> Ordinals:
        """Lowest ordinal of each document's set: int64[documents]."""
        _flatten(self._parents)
        return self._parents.astype(np.int64)


@compiled
def _find(parents: npt.NDArray[np.uint32], node: int) -> int:
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


@compiled
def _join_runs(parents: npt.NDArray[np.uint32], keys: Hashes, order: Ordinals) -> int:
    joined = 0
    for i in range(1, len(order)):
        if keys[order[i]] != keys[order[i - 1]]:
            continue
        left = _find(parents, order[i - 1])
        right = _find(parents, order[i])
        if left != right:
            joined += 1
            parents[max(left, right)] = min(left, right)
    return joined


@compiled
def _flatten(parents: npt.NDArray[np.uint32]) -> None:
    for node in range(len(parents)):
        parents[node] = parents[parents[node]]


def keepers(
    labels: Ordinals, lengths: npt.NDArray[np.int64], *, longest: bool, scores: npt.NDArray[np.float32] | None = None
) -> Ordinals:
    """Document kept of each document's cluster: the best score, the longest (ties: the first), or the first in order.

    Args:
        labels: cluster of each document: int64[documents].
        lengths: size of each document, any unit: int64[documents].
        longest: choose by size; otherwise by order.
        scores: choose by these first, the highest; without a score (NaN) last: float32[documents].
    """
    ordinals = np.arange(len(labels), dtype=np.int64)
    preference = -lengths if longest else np.zeros(len(labels), dtype=np.int64)
    worth = np.zeros(len(labels)) if scores is None else -np.nan_to_num(scores, nan=-np.inf)
    order = np.lexsort((ordinals, preference, worth, labels))
    first_of_cluster = np.ones(len(order), dtype=np.bool_)
    first_of_cluster[1:] = labels[order][1:] != labels[order][:-1]
    kept = np.empty(len(labels), dtype=np.int64)
    kept[order] = order[np.maximum.accumulate(np.where(first_of_cluster, np.arange(len(order)), 0))]
    return kept
