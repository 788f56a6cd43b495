"""The pace of a run: steps against the run's own best, kept as medians of blocks of steps. Pure.

The baseline is the lower quartile of the block medians, so that neither one lucky block nor a slow start sets it.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

BLOCK_STEPS = 16
KEPT_BLOCKS = 32
BASELINE_BLOCKS = 4
# A loader is to blame when waiting for data explains this share of the slowdown.
LOADER_SHARE = 0.5
RISING_SHARE = 0.8
REPEAT_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Block:
    """Medians of a block of steps."""

    step: int
    at: float
    step_seconds: float
    data_wait: float
    repeat_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Pace:
    """The steps of the block under way, and the blocks before it."""

    steps: tuple[tuple[float, float, float], ...] = ()
    blocks: tuple[Block, ...] = ()
    slow_since: float = 0.0


@dataclass(frozen=True, slots=True)
class Slowdown:
    """How much slower the last block was than the baseline, and since when."""

    share: float
    since: float
    now_seconds: float
    baseline_seconds: float


def add_step(pace: Pace, step: int, at: float, seconds: float, data_wait: float, repeat_share: float) -> Pace:
    """Takes one step in; every `BLOCK_STEPS` steps a block is closed."""
    steps = (*pace.steps, (seconds, data_wait, repeat_share))
    if len(steps) < BLOCK_STEPS:
        return replace(pace, steps=steps)
    medians = [statistics.median(column) for column in zip(*steps, strict=True)]
    blocks = (*pace.blocks, Block(step, at, *medians))[-KEPT_BLOCKS:]
    closed = Pace((), blocks, pace.slow_since)
    slow = _share(blocks) > 0.0
    return replace(closed, slow_since=(pace.slow_since or at) if slow else 0.0)


def restarted(pace: Pace) -> Pace:
    """After a regrouping: steps of the old epoch are not mixed with those of the new one."""
    return replace(pace, steps=(), slow_since=0.0)


def slowdown(pace: Pace, least_share: float) -> Slowdown | None:
    """The present slowdown, where it is more than `least_share`."""
    share = _share(pace.blocks)
    if share <= least_share or not pace.slow_since:
        return None
    return Slowdown(share, pace.slow_since, pace.blocks[-1].step_seconds, baseline(pace.blocks))


def baseline(blocks: Sequence[Block]) -> float:
    """The run's own pace when it was well; 0 before it is known."""
    if len(blocks) < BASELINE_BLOCKS:
        return 0.0
    ordered = sorted(block.step_seconds for block in blocks)
    return ordered[len(ordered) // 4]


def slowing_loader(pace: Pace) -> tuple[Block, Block] | None:
    """First and last block of a run whose wait for data grows with the step count and explains its slowdown."""
    blocks = pace.blocks
    if len(blocks) < 2 * BASELINE_BLOCKS:
        return None
    waits = [block.data_wait for block in blocks[-4 * BASELINE_BLOCKS :]]
    # Of all pairs, not of neighbours alone (Mann 1945): a machine that others use too varies from block to block.
    pairs = list(itertools.combinations(waits, 2))
    rising = sum(later > earlier for earlier, later in pairs)
    quarter = max(1, len(waits) // 4)
    grown = statistics.fmean(waits[-quarter:]) - statistics.fmean(waits[:quarter])
    slower = blocks[-1].step_seconds - blocks[-len(waits)].step_seconds
    significant = grown > 0.1 * blocks[-1].step_seconds and grown >= LOADER_SHARE * slower
    if rising < RISING_SHARE * len(pairs) or not significant:
        return None
    return blocks[-len(waits)], blocks[-1]


def repeated_documents(pace: Pace) -> float:
    """Share of neighbouring samples that are consecutive chunks of one document, where it is far above chance."""
    recent = [block.repeat_share for block in pace.blocks[-BASELINE_BLOCKS:]]
    if len(recent) < 2:
        return 0.0
    share = statistics.median(recent)
    return share if share > REPEAT_SHARE else 0.0


def _share(blocks: Sequence[Block]) -> float:
    base = baseline(blocks)
    return blocks[-1].step_seconds / base - 1.0 if base > 0.0 else 0.0
