"""Pieces of text that were encoded before: text is cut and looked up in compiled code, only new pieces are merged.

A text is cut as GPT-2's pattern cuts it (with digits together, or one by one). Most pieces are words that came before:
their ids are copied from a table. A table of pieces that grows beyond its bound is begun anew.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from longhaul_core.compiled import compiled

from longhaul_corpus.domain.hashing import Hashes

Codes = npt.NDArray[np.uint32]
Classes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
Ids = npt.NDArray[np.uint32]

OTHER, LETTER, NUMBER, SPACE = 0, 1, 2, 3
TABLE_SLOTS = 1 << 20
MAXIMUM_PIECES = TABLE_SLOTS // 2
_WHITE = (*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)


@functools.cache
def _classes() -> Classes:
    """Class of each code point: uint8[0x110000]."""
    table = np.zeros(0x110000, dtype=np.uint8)
    for code in range(0x110000):
        kind = unicodedata.category(chr(code))[0]
        table[code] = LETTER if kind == "L" else NUMBER if kind == "N" else OTHER
    table[list(_WHITE)] = SPACE
    return table


class PieceCache:
    """Encodes texts by their pieces.

    Args of the constructor:
        encode: ids of one piece.
        single_digits: whether each digit is a piece of its own.
    """

    def __init__(self, encode: Callable[[str], Sequence[int]], *, single_digits: bool) -> None:
        self._encode = encode
        self._single_digits = single_digits
        self._clear()

    def encode(self, text: str) -> Ids:
        """Ids of a text: uint32[tokens]."""
        ends, hashes = cut_text(text, single_digits=self._single_digits)
        slots = look_up(hashes, self._keys)
        missing = np.flatnonzero(self._keys[slots] == 0)
        if len(missing):
            if self._pieces + len(missing) > MAXIMUM_PIECES:
                self._clear()
                missing = np.arange(len(hashes))
            self._learn(text, ends, hashes, missing)
            slots = look_up(hashes, self._keys)
        return np.asarray(_gather(slots, self._firsts, self._counts, self._ids))

    def _clear(self) -> None:
        self._keys = np.zeros(TABLE_SLOTS, dtype=np.uint64)
        self._firsts = np.zeros(TABLE_SLOTS, dtype=np.int64)
        self._counts = np.zeros(TABLE_SLOTS, dtype=np.int64)
        self._ids: Ids = np.empty(1 << 16, dtype=np.uint32)
        self._used = 0
        self._pieces = 0

    def _learn(self, text: str, ends: Integers, hashes: Hashes, missing: Integers) -> None:
        _, first = np.unique(hashes[missing], return_index=True)
        for number in missing[first].tolist():
            start = int(ends[number - 1]) if number else 0
            ids = self._encode(text[start : int(ends[number])])
            while self._used + len(ids) > len(self._ids):
                self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
            slot = int(look_up(hashes[number : number + 1], self._keys)[0])
            self._keys[slot] = hashes[number]
            self._firsts[slot], self._counts[slot] = self._used, len(ids)
            self._ids[self._used : self._used + len(ids)] = ids
            self._used += len(ids)
            self._pieces += 1


def cut_text(text: str, *, single_digits: bool) -> tuple[Integers, Hashes]:
    """End of each piece in characters, and its hash, which is never 0: int64[pieces], uint64[pieces]."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return _cut(codes, _classes(), single_digits)


@compiled
def _contraction(codes: Codes, at: int) -> int:
    """Characters of 's 'd 'm 't 'll 've 're at a position, 0 where there is none."""
    size = len(codes)
    if at + 1 >= size:
        return 0
    first = codes[at + 1]
    if first == 115 or first == 100 or first == 109 or first == 116:
        return 2
    if at + 2 < size:
        second = codes[at + 2]
        if (first == 108 and second == 108) or ((first == 118 or first == 114) and second == 101):
            return 3
    return 0


@compiled
def _piece_end(codes: Codes, classes: Classes, start: int, single_digits: bool) -> int:
    size = len(codes)
    if codes[start] == 39:
        short = _contraction(codes, start)
        if short > 0:
            return start + short
    at = start
    if codes[start] == 32 and start + 1 < size:
        following = classes[codes[start + 1]]
        if following == 1 or following == 0 or (following == 2 and not single_digits):
            at = start + 1
    kind = classes[codes[at]]
    if kind == 2 and single_digits:
        return at + 1
    end = at
    while end < size and classes[codes[end]] == kind:
        end += 1
    if kind != 3 or end == size or end - start == 1:
        return end
    return end if single_digits and classes[codes[end]] == 2 else end - 1


@compiled
def _cut(codes: Codes, classes: Classes, single_digits: bool) -> tuple[Integers, Hashes]:
    """End and hash of each piece; no hash is 0."""
    size = len(codes)
    ends = np.empty(size, dtype=np.int64)
    hashes = np.empty(size, dtype=np.uint64)
    count = 0
    start = 0
    while start < size:
        end = _piece_end(codes, classes, start, single_digits)
        value = np.uint64(0xCBF29CE484222325) ^ np.uint64(end - start)
        for place in range(start, end):
            value = (value ^ np.uint64(codes[place])) * np.uint64(0x100000001B3)
            value ^= value >> np.uint64(29)
        value *= np.uint64(0xBF58476D1CE4E5B9)
        ends[count] = end
        hashes[count] = value if value != np.uint64(0) else np.uint64(1)
        count += 1
        start = end
    return ends[:count], hashes[:count]


@compiled
def look_up(hashes: Hashes, keys: Hashes) -> Integers:
    """Slot of each hash, or the empty slot where it belongs."""
    mask = np.uint64(len(keys) - 1)
    slots = np.empty(len(hashes), dtype=np.int64)
    for number in range(len(hashes)):
        wanted = hashes[number]
        slot = (wanted >> np.uint64(20)) & mask
        while keys[slot] != np.uint64(0) and keys[slot] != wanted:
            slot = (slot + np.uint64(1)) & mask
        slots[number] = slot
    return slots


@compiled
def _gather(slots: Integers, firsts: Integers, counts: Integers, ids: Ids) -> Ids:
    total = 0
    for slot in slots:
        total += counts[slot]
    found = np.empty(total, dtype=np.uint32)
    place = 0
    for slot in slots:
        for number in range(firsts[slot], firsts[slot] + counts[slot]):
            found[place] = ids[number]
            place += 1
    return found
