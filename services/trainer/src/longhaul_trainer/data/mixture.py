"""Which source a global sample comes from, in closed form.

The sample indices are cut into blocks. Each block holds every source its exact share of times, in an order of its own,
so that any prefix of the run has the wanted shares to within one block and no sampler state need be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from longhaul_core.errors import InvalidArgument
from numpy.typing import NDArray

from longhaul_trainer.data.permutation import Indices, derive_key, permute

BLOCK_SAMPLES = 4096
_BLOCK_STREAM = 0x6D6978


class Mixture:
    """Maps a global sample index to (source, index among that source's samples)."""

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        self.quotas = _quotas(weights)
        self.seed = seed
        self._block = lru_cache(maxsize=8)(self._make_block)

    def locate(self, samples: Indices) -> tuple[Indices, Indices]:
        """Sources and within-source indices of the samples. samples: int64[N]; results: int64[N] each."""
        blocks, slots = np.divmod(samples, BLOCK_SAMPLES)
        sources, indices = np.empty_like(samples), np.empty_like(samples)
        for block in np.unique(blocks):
            here = blocks == block
            labels, ranks = self._block(int(block))
            sources[here] = labels[slots[here]]
            indices[here] = ranks[slots[here]] + block * self.quotas[sources[here]]
        return sources, indices

    def consumed(self, samples: int) -> Indices:
        """How many samples each source has given once the first ``samples`` were read."""
        blocks, rest = divmod(samples, BLOCK_SAMPLES)
        labels, _ = self._block(blocks)
        counts: Indices = blocks * self.quotas + np.bincount(labels[:rest], minlength=len(self.quotas))
        return counts

    def _make_block(self, block: int) -> tuple[Indices, Indices]:
        ordered = np.repeat(np.arange(len(self.quotas)), self.quotas)
        key = derive_key(self.seed, _BLOCK_STREAM, block)
        labels = ordered[permute(np.arange(BLOCK_SAMPLES), BLOCK_SAMPLES, key)]
        order = np.argsort(labels, kind="stable")
        ranks = np.empty_like(order)
        firsts = np.cumsum(self.quotas) - self.quotas
        ranks[order] = np.arange(BLOCK_SAMPLES) - np.repeat(firsts, self.quotas)
        return labels, ranks


def _quotas(weights: Sequence[float]) -> Indices:
    """Samples a block of each source, by largest remainder; a source with any weight gets at least one."""
    share: NDArray[np.float64] = np.asarray(weights, dtype=np.float64)
    if share.size == 0 or not np.isfinite(share).all() or (share < 0).any() or share.sum() <= 0:
        raise InvalidArgument(
            "The mixture needs weights that are finite, not negative and not all zero",
            violations=[("data.mixture", f"got {list(weights)}")],
        )
    wanted = share / share.sum() * BLOCK_SAMPLES
    quotas: Indices = np.maximum(np.floor(wanted), (share > 0).astype(np.float64)).astype(np.int64)
    remainder = wanted - quotas
    while (missing := BLOCK_SAMPLES - int(quotas.sum())) != 0:
        pick = np.argsort(-remainder if missing > 0 else remainder, kind="stable")[: abs(missing)]
        quotas[pick] += np.sign(missing)
        remainder = wanted - quotas
    return quotas
