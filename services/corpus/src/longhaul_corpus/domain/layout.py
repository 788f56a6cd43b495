"""Output shards of a token set: documents of one source in seeded order, cut at document ends to a bounded size."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from longhaul_core.compiled import compiled

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


@compiled
def count_tokens(ids: npt.NDArray[np.uint16] | npt.NDArray[np.uint32], size: int) -> npt.NDArray[np.int64]:
    """How often each id of a vocabulary comes: int64[size]; bincount would hold the ids as 8 bytes each."""
    counts = np.zeros(size, dtype=np.int64)
    for number in ids:
        counts[number] += 1
    return counts


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
    if not len(keys):  # a small source may have no document on the validation side
        return
    bounds, counts, sizes = _by_key(keys, tokens)
    starts = _starts(sizes, shard_tokens)
    for number, (first, last) in enumerate(zip(starts, [*starts[1:], len(bounds)], strict=True)):
        yield ShardRange(
            split,
            source,
            number,
            low=int(bounds[first]) if number else 0,
            high=int(bounds[last]) if last < len(bounds) else FULL_RANGE,
            tokens=int(sizes[first:last].sum()),
            documents=int(counts[first:last].sum()),
        )


def _by_key(keys: Hashes, tokens: npt.NDArray[np.int64]) -> tuple[Hashes, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Ascending distinct keys, with the documents and the tokens of each; documents of one key are never parted."""
    distinct, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    sizes = np.zeros(len(distinct), dtype=np.int64)
    np.add.at(sizes, inverse, tokens)
    return distinct, counts, sizes


def _starts(sizes: npt.NDArray[np.int64], shard_tokens: int) -> list[int]:
    """First key of each shard."""
    ends = np.cumsum(sizes)
    starts = [0]
    while True:
        before = int(ends[starts[-1] - 1]) if starts[-1] else 0
        following = max(int(np.searchsorted(ends, before + shard_tokens, side="right")), starts[-1] + 1)
        if following >= len(sizes):
            break
        starts.append(following)
    return starts


def key_range(keys: Hashes, low: int, high: int) -> slice:
    """Part of an ascending array of keys that lies in [low, high)."""
    first = int(np.searchsorted(keys, np.uint64(low), side="left"))
    last = len(keys) if high >= FULL_RANGE else int(np.searchsorted(keys, np.uint64(high), side="left"))
    return slice(first, last)
