"""Output shards of a token set: documents of one source in seeded order, cut at document ends to a bounded size."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from longhaul_corpus.domain.hashing import Hashes

FULL_RANGE = 1 << 64


@dataclass(frozen=True, slots=True)
class ShardRange:
    """One output shard: documents whose order key lies in [low, high)."""

    split: str
    source: str
    number: int
    low: int
    high: int
    tokens: int
    documents: int


def cut_shards(
    split: str, source: str, keys: Hashes, tokens: npt.NDArray[np.int64], shard_tokens: int
) -> Iterator[ShardRange]:
    """Yield shards of at most `shard_tokens`; a longer document has a shard of its own.

    Args:
        split: `train` or `valid`.
        source: name of the source.
        keys: order key of each document: uint64[documents], any order.
        tokens: tokens of each document: int64[documents].
        shard_tokens: tokens a shard at most.
    """
    order = np.argsort(keys, kind="stable")
    ends = np.cumsum(tokens[order])
    starts = _starts(keys[order], ends, shard_tokens)
    for number, (first, last) in enumerate(zip(starts, [*starts[1:], len(order)], strict=True)):
        yield ShardRange(
            split,
            source,
            number,
            low=int(keys[order[first]]) if number else 0,
            high=int(keys[order[last]]) if last < len(order) else FULL_RANGE,
            tokens=int(ends[last - 1] - (ends[first - 1] if first else 0)),
            documents=last - first,
        )


def _starts(keys: Hashes, ends: npt.NDArray[np.int64], shard_tokens: int) -> list[int]:
    """First document of each shard; equal keys are never parted, as shards are ranges of keys."""
    starts = [0] if len(keys) else []
    while starts:
        before = int(ends[starts[-1] - 1]) if starts[-1] else 0
        following = max(int(np.searchsorted(ends, before + shard_tokens, side="right")), starts[-1] + 1)
        while following < len(keys) and keys[following] == keys[following - 1]:
            following += 1
        if following >= len(keys):
            break
        starts.append(following)
    return starts


def key_range(keys: Hashes, low: int, high: int) -> slice:
    """Part of an ascending array of keys that lies in [low, high)."""
    first = int(np.searchsorted(keys, np.uint64(low), side="left"))
    last = len(keys) if high >= FULL_RANGE else int(np.searchsorted(keys, np.uint64(high), side="left"))
    return slice(first, last)
