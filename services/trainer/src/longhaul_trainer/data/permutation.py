"""A seeded permutation of 0 .. n-1 that is computed a point at a time, with no table.

A balanced Feistel network over the next even power of two, with cycle walking for the points that fall outside.
Cost: about eight passes of integer arithmetic over the points asked for, whatever n is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
_Words = NDArray[np.uint64]

_ROUNDS = 4
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_ROUND_KEYS = np.arange(_ROUNDS, dtype=np.uint64) * _MIX_1


def mix(words: _Words) -> _Words:
    """SplitMix64's finaliser: every input bit reaches every output bit."""
    words = (words ^ (words >> np.uint64(30))) * _MIX_1
    words = (words ^ (words >> np.uint64(27))) * _MIX_2
    return words ^ (words >> np.uint64(31))


def derive_key(seed: int, *parts: Indices | int) -> _Words:
    """One 64-bit key from a seed and further integers, element by element."""
    key = mix(np.atleast_1d(np.asarray(seed, dtype=np.int64)).astype(np.uint64) + _GOLDEN)
    for part in parts:
        key = mix(key + _GOLDEN + np.asarray(part, dtype=np.int64).astype(np.uint64))
    return key


def permute(points: Indices, size: int, key: _Words) -> Indices:
    """Image of each point under the permutation of 0 .. size-1 chosen by its key.

    Args:
        points: int64[N], each in 0 .. size-1.
        size: number of elements permuted.
        key: uint64[N] or uint64[1]; a different key is a different permutation.
    """
    half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    image = _network(points.astype(np.uint64), half_bits, key)
    outside = image >= np.uint64(size)
    while bool(outside.any()):
        keys = key[outside] if key.size > 1 else key
        image[outside] = _network(image[outside], half_bits, keys)
        outside = image >= np.uint64(size)
    return image.astype(np.int64)


def _network(points: _Words, half_bits: np.uint64, key: _Words) -> _Words:
    low = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = points >> half_bits, points & low
    for number in range(_ROUNDS):
        scrambled = mix(right * _GOLDEN + key + _ROUND_KEYS[number : number + 1]) & low
        left, right = right, left ^ scrambled
    return (left << half_bits) | right
