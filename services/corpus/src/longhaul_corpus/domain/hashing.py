"""64-bit xxHash (XXH64, seed 0) of spans of bytes in compiled code, and hashes of all word n-grams of a text.

The n-gram's hash is that of its words joined by one space, so it equals `xxhash.xxh64(" ".join(words))`, and needs no
copy because a simplified text already stands so in memory.
"""

import numpy as np
import numpy.typing as npt
from longhaul_core.compiled import compiled

from longhaul_corpus.domain.words import Bytes, word_spans

Hashes = npt.NDArray[np.uint64]

P1 = np.uint64(11400714785074694791)
P2 = np.uint64(14029467366897019727)
P3 = np.uint64(1609587929392839161)
P4 = np.uint64(9650029242287828579)
P5 = np.uint64(2870177450012600261)
_MASK = 0xFFFFFFFFFFFFFFFF
_SEED_1 = np.uint64((int(P1) + int(P2)) & _MASK)
_SEED_4 = np.uint64(-int(P1) & _MASK)


@compiled
def _rotate(value: np.uint64, bits: int) -> np.uint64:
    return (value << np.uint64(bits)) | (value >> np.uint64(64 - bits))


@compiled
def _read32(data: Bytes, i: int) -> np.uint64:
    return (
        np.uint64(data[i])
        | (np.uint64(data[i + 1]) << np.uint64(8))
        | (np.uint64(data[i + 2]) << np.uint64(16))
        | (np.uint64(data[i + 3]) << np.uint64(24))
    )


@compiled
def _read64(data: Bytes, i: int) -> np.uint64:
    return _read32(data, i) | (_read32(data, i + 4) << np.uint64(32))


@compiled
def _round(accumulator: np.uint64, lane: np.uint64) -> np.uint64:
    return _rotate(accumulator + lane * P2, 31) * P1


@compiled
def _merge(accumulator: np.uint64, value: np.uint64) -> np.uint64:
    return (accumulator ^ _round(np.uint64(0), value)) * P1 + P4


@compiled
def _stripes(data: Bytes, start: int, end: int) -> np.uint64:
    """Accumulate the whole 32-byte stripes of the span."""
    v1, v2, v3, v4 = _SEED_1, P2, np.uint64(0), _SEED_4
    i = start
    while i + 32 <= end:
        v1 = _round(v1, _read64(data, i))
        v2 = _round(v2, _read64(data, i + 8))
        v3 = _round(v3, _read64(data, i + 16))
        v4 = _round(v4, _read64(data, i + 24))
        i += 32
    value = _rotate(v1, 1) + _rotate(v2, 7) + _rotate(v3, 12) + _rotate(v4, 18)
    return _merge(_merge(_merge(_merge(value, v1), v2), v3), v4)


@compiled
def xxh64(data: Bytes, start: int, end: int) -> np.uint64:
    """XXH64 with seed 0 of `data[start:end]`."""
    length = end - start
    value = _stripes(data, start, end) if length >= 32 else P5
    value += np.uint64(length)
    i = start + (length // 32) * 32
    while i + 8 <= end:
        value = _rotate(value ^ _round(np.uint64(0), _read64(data, i)), 27) * P1 + P4
        i += 8
    if i + 4 <= end:
        value = _rotate(value ^ (_read32(data, i) * P1), 23) * P2 + P3
        i += 4
    while i < end:
        value = _rotate(value ^ (np.uint64(data[i]) * P5), 11) * P1
        i += 1
    value = (value ^ (value >> np.uint64(33))) * P2
    value = (value ^ (value >> np.uint64(29))) * P3
    return value ^ (value >> np.uint64(32))


@compiled
def _gram_hashes(data: Bytes, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], words: int) -> Hashes:
    count = max(0, len(starts) - words + 1)
    hashes = np.empty(count, dtype=np.uint64)
    for i in range(count):
        hashes[i] = xxh64(data, starts[i], ends[i + words - 1])
    return hashes


def gram_hashes(simplified: Bytes, words: int) -> Hashes:
    """Hash of each n-gram of `words` words of a simplified text, in order: uint64[max(0, W - words + 1)]."""
    starts, ends = word_spans(simplified)
    return _gram_hashes(simplified, starts, ends, words)
