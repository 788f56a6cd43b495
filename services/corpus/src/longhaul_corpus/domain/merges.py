"""Byte-pair encoding trained on counted pieces: the vocabulary and the merges that `tokenizers` finds in the texts.

The most frequent pair of neighbours becomes a token, again and again (Sennrich et al. 2016); of equally frequent ones
the pair of lower ids. Only pieces that hold the pair are touched: its places are kept with it in a heap, and a count
that went stale meanwhile is put right when its pair comes up, as `tokenizers` does it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from longhaul_core.compiled import compiled

Integers = npt.NDArray[np.int64]
Symbols = npt.NDArray[np.uint32]
Pairs = npt.NDArray[np.uint64]
"""A pair of neighbours: the left id in the upper half, the right one in the lower; so they sort as pairs do."""

_HALF = np.uint64(32)


def train_merges(
    pieces: Sequence[bytes], counts: Integers, *, specials: Sequence[str], size: int, minimum_count: int
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the vocabulary, with the special tokens and the bytes first, and the merges in order.

    Args:
        pieces: different pieces of text.
        counts: how often each comes: int64[pieces].
        specials: special tokens.
        size: of the vocabulary; less where no pair is left.
        minimum_count: a rarer pair is not merged.
    """
    alphabet = byte_alphabet()
    tokens = list(dict.fromkeys([*specials, *sorted(alphabet)]))
    known = {token: number for number, token in enumerate(tokens)}
    words = _Words(pieces, counts, {byte: known[character] for character, byte in alphabet.items()})
    merges: dict[int, None] = {}
    heap: list[tuple[int, int, int, Integers]] = []
    total: dict[int, int] = {}
    pushed = 0
    for pair, change, places in words.pairs():
        total[pair] = change
        heap.append((-change, pair, pushed := pushed + 1, places))
    heapq.heapify(heap)
    while len(known) < size and heap:
        negative, pair, number, places = heapq.heappop(heap)
        if -negative != total[pair]:
            heapq.heappush(heap, (-total[pair], pair, number, places))
            continue
        if total[pair] < max(minimum_count, 1):
            break
        left, right = pair >> 32, pair & 0xFFFFFFFF
        token = tokens[left] + tokens[right]
        if token not in known:
            known[token] = len(tokens)
            tokens.append(token)
        merges.pop(pair, None)  # a pair that comes up again moves to the end
        merges[pair] = None
        for changed, change, risen in words.merge(places, left, right, known[token]):
            total[changed] = total.get(changed, 0) + change
            if len(risen) and total[changed] > 0:
                heapq.heappush(heap, (-total[changed], changed, pushed := pushed + 1, risen))
    return known, [(tokens[pair >> 32], tokens[pair & 0xFFFFFFFF]) for pair in merges]


def byte_alphabet() -> dict[str, int]:
    """Character that stands for each byte in byte-level vocabularies (Radford et al. 2019)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    characters = {chr(byte): byte for byte in shown}
    return characters | {chr(256 + place): byte for place, byte in enumerate(hidden)}


class _Words:
    """The pieces as symbols, which get fewer with each merge."""

    def __init__(self, pieces: Sequence[bytes], counts: Integers, ids: dict[int, int]) -> None:
        table = np.array([ids[byte] for byte in range(256)], dtype=np.uint32)
        self._counts = counts
        self._symbols: Symbols = table[np.frombuffer(b"".join(pieces), dtype=np.uint8)]
        self._sizes: Integers = np.array([len(piece) for piece in pieces], dtype=np.int64)
        self._starts: Integers = np.cumsum(self._sizes) - self._sizes

    def pairs(self) -> Iterator[tuple[int, int, Integers]]:
        """Each pair of neighbours, how often it comes, and in which words."""
        words = np.repeat(np.arange(len(self._sizes)), np.maximum(self._sizes - 1, 0))
        last = np.zeros(len(self._symbols), dtype=np.bool_)
        last[(self._starts + self._sizes - 1)[self._sizes > 0]] = True
        firsts = np.flatnonzero(~last)
        pairs = self._symbols[firsts].astype(np.uint64) << _HALF
        pairs |= self._symbols[firsts + 1] if len(firsts) else pairs
        return _by_pair(pairs, np.ones(len(pairs), dtype=np.int64), words, self._counts)

    def merge(self, words: Integers, left: int, right: int, merged: int) -> Iterator[tuple[int, int, Integers]]:
        """Merge a pair in the words that hold it.

        Yields:
            A pair whose count changed, by how much, and the words in which it is new.
        """
        pairs, changes, places = _merge(self._symbols, self._starts, self._sizes, words, left, right, merged)
        return _by_pair(pairs, changes, places, self._counts)


def _by_pair(pairs: Pairs, changes: Integers, words: Integers, counts: Integers) -> Iterator[tuple[int, int, Integers]]:
    """Group changes by pair; `words` ascend."""
    if not len(pairs):
        return
    order = np.argsort(pairs, kind="stable")
    pairs, changes, words = pairs[order], changes[order], words[order]
    firsts = np.concatenate([[0], np.flatnonzero(pairs[1:] != pairs[:-1]) + 1])
    sums = np.add.reduceat(changes * counts[words], firsts)
    risen = changes > 0
    up, where = pairs[risen], words[risen]
    other = np.ones(len(up), dtype=np.bool_)
    other[1:] = (up[1:] != up[:-1]) | (where[1:] != where[:-1])
    up, where = up[other], where[other]
    different = pairs[firsts]
    ends = np.searchsorted(up, different, side="right").tolist()
    start = 0
    for pair, change, end in zip(different.tolist(), sums.tolist(), ends, strict=True):
        yield pair, change, where[start:end]
        start = end


@compiled
def _merge(
    symbols: Symbols, starts: Integers, sizes: Integers, words: Integers, left: int, right: int, merged: int
) -> tuple[Pairs, Integers, Integers]:
    """Replace the pair in place; returns each change of a pair's count, with its word."""
    room = 0
    for word in words:
        room += 2 * sizes[word]
    pairs = np.empty(room, dtype=np.uint64)
    changes = np.empty(room, dtype=np.int64)
    places = np.empty(room, dtype=np.int64)
    used = 0
    for word in words:
        start, size = starts[word], sizes[word]
        read = 0
        write = 0
        while read < size:
            here = start + read
            if symbols[here] != left or read + 1 == size or symbols[here + 1] != right:
                symbols[start + write] = symbols[here]
                read += 1
                write += 1
                continue
            if write > 0:
                before = np.uint64(symbols[start + write - 1]) << np.uint64(32)
                pairs[used], changes[used], places[used] = before | np.uint64(left), -1, word
                pairs[used + 1], changes[used + 1], places[used + 1] = before | np.uint64(merged), 1, word
                used += 2
            if read + 2 < size:
                after = np.uint64(symbols[here + 2])
                pairs[used], changes[used], places[used] = np.uint64(right) << np.uint64(32) | after, -1, word
                pairs[used + 1] = np.uint64(merged) << np.uint64(32) | after
                changes[used + 1], places[used + 1] = 1, word
                used += 2
            symbols[start + write] = merged
            read += 2
            write += 1
        sizes[word] = write
    return pairs[:used], changes[:used], places[:used]
