"""Seeded samples of documents, the same for any number of shards."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from longhaul_corpus.domain.clusters import Mask
from longhaul_corpus.domain.hashing import Hashes
from longhaul_corpus.domain.ordering import REPEAT, SAMPLE, order_keys


def sampled_copies(factors: npt.NDArray[np.float64], content: Hashes, seed: int) -> npt.NDArray[np.uint8]:
    """How often each document is taken: the whole part of its factor, and once more by chance for the rest.

    Args:
        factors: how often on average, below 255: float64[documents].
        content: content hash of each document: uint64[documents]; decides the chance, whatever the order.
        seed: the recipe's seed.
    """
    whole = np.floor(factors)
    chance = (order_keys(content, seed, REPEAT) >> np.uint64(11)).astype(np.float64) / float(1 << 53)
    return np.asarray(whole + (chance < factors - whole), dtype=np.uint8)


def sample_bytes(candidates: Mask, content: Hashes, sizes: npt.NDArray[np.int64], budget: int, seed: int) -> Mask:
    """Choose documents in seeded order until `budget` bytes are reached; at least one where there is any.

    Args:
        candidates: documents to choose from: bool[documents].
        content: content hash of each document: uint64[documents].
        sizes: bytes of each document: int64[documents].
        budget: bytes; 0 takes all.
        seed: the recipe's seed.
    """
    if not budget:
        return candidates.copy()
    members = np.flatnonzero(candidates)
    order = members[np.argsort(order_keys(content[members], seed, SAMPLE), kind="stable")]
    before = np.cumsum(sizes[order]) - sizes[order]
    chosen = np.zeros(len(candidates), dtype=np.bool_)
    chosen[order[before < budget]] = True
    return chosen


def sample_mixture(
    candidates: Mask,
    sources: npt.NDArray[np.int64],
    weights: Mapping[int, float],
    content: Hashes,
    sizes: npt.NDArray[np.int64],
    budget: int,
) -> Mask:
    """Choose documents by the weights of their sources, numbered; sources without a weight give none.

    Without weights, or without a budget, size alone decides.
    """
    if not weights:
        return sample_bytes(candidates, content, sizes, budget, 0)
    total = sum(weights.values())
    chosen = np.zeros(len(candidates), dtype=np.bool_)
    for source, weight in weights.items():
        share = int(budget * weight / total)
        chosen |= sample_bytes(candidates & (sources == source), content, sizes, share, 0)
    return chosen
