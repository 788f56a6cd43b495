"""Which source a global sample comes from, in closed form.

The sample indices are cut into blocks. Each block holds every source its exact share of times, in an order of its own,
so that any prefix of the run has the wanted shares to within one block and no sampler state need be kept. Weights may
change by stages, with ramps between them: a block has the weights of its first sample. What a source has given before
a block is a product within a stage and a sum of a table within a ramp, so nothing grows with the length of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from longhaul_core.errors import InvalidArgument
from numpy.typing import NDArray

from longhaul_trainer.data.permutation import Indices, derive_key, permute

BLOCK_SAMPLES = 4096
_BLOCK_STREAM = 0x6D6978


@dataclass(frozen=True, slots=True)
class Stage:
    """Weights by source from a sample on, reached evenly over a ramp of samples."""

    from_sample: int
    ramp_samples: int
    weights: Sequence[float]


@dataclass(frozen=True, slots=True)
class _Segment:
    """Blocks from `first` on: of constant quotas (one row), or of quotas block by block (a ramp).

    before: int64[sources], samples of each source before the segment; quotas: int64[rows, sources].
    """

    first: int
    before: Indices
    quotas: Indices
    sums: Indices

    def quota(self, block: int) -> Indices:
        row: Indices = self.quotas[min(block - self.first, len(self.quotas) - 1)]
        return row

    def given(self, block: int) -> Indices:
        """Samples of each source before a block of this segment."""
        past = block - self.first
        known = min(past, len(self.quotas))
        total: Indices = self.before + self.sums[known] + (past - known) * self.quotas[-1]
        return total


class Mixture:
    """Maps a global sample index to (source, index among that source's samples)."""

    def __init__(self, weights: Sequence[float], seed: int, stages: Sequence[Stage] = ()) -> None:
        self.seed = seed
        self._segments = _segments(weights, stages)
        self._firsts = np.array([segment.first for segment in self._segments])
        self._block = lru_cache(maxsize=8)(self._make_block)

    @property
    def used(self) -> NDArray[np.bool_]:
        """Whether each source is drawn from at any time: bool[sources]."""
        return np.asarray(np.any([segment.quotas.any(axis=0) for segment in self._segments], axis=0))

    def locate(self, samples: Indices) -> tuple[Indices, Indices]:
        """Sources and within-source indices of the samples. samples: int64[N]; results: int64[N] each."""
        blocks, slots = np.divmod(samples, BLOCK_SAMPLES)
        sources, indices = np.empty_like(samples), np.empty_like(samples)
        for block in np.unique(blocks):
            here = blocks == block
            labels, ranks, before = self._block(int(block))
            sources[here] = labels[slots[here]]
            indices[here] = ranks[slots[here]] + before[sources[here]]
        return sources, indices

    def consumed(self, samples: int) -> Indices:
        """How many samples each source has given once the first ``samples`` were read."""
        block, rest = divmod(samples, BLOCK_SAMPLES)
        labels, _, before = self._block(block)
        counts: Indices = before + np.bincount(labels[:rest], minlength=len(before))
        return counts

    def _segment(self, block: int) -> _Segment:
        return self._segments[int(np.searchsorted(self._firsts, block, side="right")) - 1]

    def _make_block(self, block: int) -> tuple[Indices, Indices, Indices]:
        segment = self._segment(block)
        quotas = segment.quota(block)
        ordered = np.repeat(np.arange(len(quotas)), quotas)
        key = derive_key(self.seed, _BLOCK_STREAM, block)
        labels = ordered[permute(np.arange(BLOCK_SAMPLES), BLOCK_SAMPLES, key)]
        order = np.argsort(labels, kind="stable")
        ranks = np.empty_like(order)
        firsts = np.cumsum(quotas) - quotas
        ranks[order] = np.arange(BLOCK_SAMPLES) - np.repeat(firsts, quotas)
        return labels, ranks, segment.given(block)


def _segments(weights: Sequence[float], stages: Sequence[Stage]) -> list[_Segment]:
    found = [_segment_of(0, np.zeros(len(weights), dtype=np.int64), [_quotas(weights)])]
    present: NDArray[np.float64] = np.asarray(weights, dtype=np.float64)
    present = present / present.sum()
    for stage in stages:
        first = -(-stage.from_sample // BLOCK_SAMPLES)
        blocks = -(-stage.ramp_samples // BLOCK_SAMPLES)
        target: NDArray[np.float64] = np.asarray(stage.weights, dtype=np.float64)
        reached = _quotas(stage.weights)
        target = target / target.sum()
        parts = [(number + 1) / (blocks + 1) for number in range(blocks)]
        rows = [_quotas((present + (target - present) * part).tolist()) for part in parts]
        found.append(_segment_of(first, found[-1].given(first), [*rows, reached]))
        present = target
    return found


def _segment_of(first: int, before: Indices, quotas: Sequence[Indices]) -> _Segment:
    table = np.stack(quotas)
    sums = np.concatenate([np.zeros((1, table.shape[1]), dtype=np.int64), np.cumsum(table, axis=0)])
    return _Segment(first, before, table, sums)


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
