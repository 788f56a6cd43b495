"""Repeated n-grams of words, as counted by the Gopher repetition rules (Rae et al. 2021, appendix A1.1).

Both counts work on hashed words, in one pass with an open-addressing table: O(W) time and 24 bytes a word.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from longhaul_core.compiled import compiled

from longhaul_ingest.domain.words import Hashes, Lengths, Words

MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)


def top_gram_characters(words: Words, n: int) -> int:
    """Characters (spaces inside included) of all occurrences of the most frequent n-gram; the first of several."""
    return int(_top(words.hashes, words.lengths, n)) if len(words) >= n else 0


def repeated_gram_characters(words: Words, n: int) -> int:
    """Characters of words in n-grams that occurred before, none counted twice.

    The scan goes on after a repeated n-gram, and by one word after a new one.
    """
    return int(_repeated(words.hashes, words.lengths, n)) if len(words) >= n else 0


@compiled
def _gram_hash(hashes: Hashes, start: int, n: int) -> np.uint64:
    value = np.uint64(n)
    for index in range(start, start + n):
        value = (value ^ hashes[index]) * MULTIPLIER
        value ^= value >> np.uint64(32)
    return value


@compiled
def _slots(count: int) -> int:
    size = 16
    while size < 2 * count:
        size *= 2
    return size


@compiled
def _top(hashes: Hashes, lengths: Lengths, n: int) -> int:
    grams = hashes.size - n + 1
    size = _slots(grams)
    mask = np.uint64(size - 1)
    keys = np.empty(size, dtype=np.uint64)
    counts = np.zeros(size, dtype=np.int32)
    firsts = np.empty(size, dtype=np.int32)
    for index in range(grams):
        key = _gram_hash(hashes, index, n)
        slot = key & mask
        while counts[slot] > 0 and keys[slot] != key:
            slot = (slot + np.uint64(1)) & mask
        if counts[slot] == 0:
            keys[slot] = key
            firsts[slot] = index
        counts[slot] += 1
    best = 0
    for other in range(size):
        more = counts[other] > counts[best]
        if more or (counts[other] == counts[best] and counts[other] > 0 and firsts[other] < firsts[best]):
            best = other
    characters = n - 1
    for index in range(firsts[best], firsts[best] + n):
        characters += lengths[index]
    return int(characters * counts[best])


@compiled
def _repeated(hashes: Hashes, lengths: Lengths, n: int) -> int:
    grams = hashes.size - n + 1
    size = _slots(grams)
    mask = np.uint64(size - 1)
    keys = np.zeros(size, dtype=np.uint64)
    used = np.zeros(size, dtype=np.bool_)
    characters = 0
    index = 0
    while index < grams:
        key = _gram_hash(hashes, index, n)
        slot = key & mask
        while used[slot] and keys[slot] != key:
            slot = (slot + np.uint64(1)) & mask
        if used[slot]:
            for word in range(index, index + n):
                characters += lengths[word]
            index += n
        else:
            used[slot] = True
            keys[slot] = key
            index += 1
    return characters
