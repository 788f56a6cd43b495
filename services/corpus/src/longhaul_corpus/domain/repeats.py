"""Passages that stand more than once in a corpus: equal paragraphs, runs of sentences or words, to any size by parts.

A run of words repeated elsewhere is at least N words long exactly where a window of N words is repeated elsewhere. So
the repeated substrings that a suffix array over words would give (Lee et al. 2022) follow from the hashes of all
windows, which can be spread over parts by their own value and sorted part by part: memory is bounded whatever the size
of the corpus, and no shard sees another's text. Two windows of equal 64-bit hash are taken for equal.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import regex
from longhaul_core.compiled import compiled

from longhaul_corpus.domain.cutting import split_sentences
from longhaul_corpus.domain.hashing import Hashes, xxh64
from longhaul_corpus.domain.words import Bytes

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

PARAGRAPH = regex.compile(r"[^\n]+(?:\n[^\n]+)*")
SPACES = frozenset(b" \t\n\r\x0b\x0c")
LEAST_CHARACTERS = 200
"""A document of which less is left is dropped, as by decontamination."""


def paragraph_spans(text: str, characters: int) -> list[tuple[int, int]]:
    """Blocks between empty lines that are long enough, as first and last character (exclusive)."""
    found = (match.span() for match in PARAGRAPH.finditer(text))
    return [(start, end) for start, end in found if end - start >= characters]


def paragraph_hashes(text: str, spans: Sequence[tuple[int, int]]) -> Hashes:
    """Hash of each paragraph, white space around its lines left out: uint64[spans]."""
    return text_hashes(["\n".join(line.strip() for line in text[start:end].split("\n")) for start, end in spans])


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Sentences that are not blank, without the white space around them, as first and last character (exclusive)."""
    spans, position = [], 0
    for sentence in split_sentences(text):
        if plain := sentence.strip():
            start = position + sentence.index(plain)
            spans.append((start, start + len(plain)))
        position += len(sentence)
    return spans


def sentence_runs(text: str, spans: Sequence[tuple[int, int]], count: int) -> list[str]:
    """Each run of `count` sentences in a row, whatever white space divides them: max(0, S - count + 1) of them."""
    sentences = [text[start:end] for start, end in spans]
    return ["\n".join(sentences[first : first + count]) for first in range(len(sentences) - count + 1)]


def text_hashes(texts: Sequence[str]) -> Hashes:
    """Hash of each text: uint64[texts]."""
    hashes = np.empty(len(texts), dtype=np.uint64)
    for number, text in enumerate(texts):
        data = np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8)
        hashes[number] = xxh64(data, 0, len(data))
    return hashes


def word_bounds(data: Bytes) -> tuple[Integers, Integers]:
    """First and last byte (exclusive) of each run of bytes that are no white space: int64[words] each."""
    space = np.zeros(256, dtype=np.bool_)
    space[list(SPACES)] = True
    inside = np.concatenate([[False], ~space[data], [False]]) if len(data) else np.zeros(2, dtype=np.bool_)
    edges = np.flatnonzero(inside[1:] != inside[:-1]).astype(np.int64)
    return edges[::2], edges[1::2]


def window_hashes(data: Bytes, words: int) -> Hashes:
    """Hash of each run of `words` words, whatever white space divides them: uint64[max(0, W - words + 1)]."""
    starts, ends = word_bounds(data)
    return np.asarray(_windows(data, starts, ends, words))


@compiled
def _windows(data: Bytes, starts: Integers, ends: Integers, words: int) -> Hashes:
    """A polynomial over the words' hashes, rolled on by one word at a time: O(1) a window."""
    base = np.uint64(0x9E3779B97F4A7C15)
    count = max(0, len(starts) - words + 1)
    found = np.empty(count, dtype=np.uint64)
    if count == 0:
        return found
    hashes = np.empty(len(starts), dtype=np.uint64)
    for word in range(len(starts)):
        hashes[word] = xxh64(data, starts[word], ends[word])
    leading = np.uint64(1)
    for _ in range(words - 1):
        leading *= base
    value = np.uint64(0)
    for word in range(len(starts)):
        if word >= words:
            value -= hashes[word - words] * leading
        value = value * base + hashes[word]
        if word >= words - 1:
            mixed = (value ^ (value >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
            found[word - words + 1] = mixed ^ (mixed >> np.uint64(32))
    return found


def later_places(hashes: Hashes, places: Integers) -> Integers:
    """Places of all hashes that have an equal one at a lower place, in ascending order.

    Args:
        hashes: uint64[N], any order.
        places: int64[N], distinct.
    """
    order = np.lexsort((places, hashes))
    again = np.zeros(len(order), dtype=np.bool_)
    again[1:] = hashes[order][1:] == hashes[order][:-1]
    return np.sort(places[order][again])


def cut_words(text: str, windows: Mask, words: int) -> str | None:
    """The text without the words of the windows that are marked; None where too little is left.

    Args:
        text: the document.
        windows: whether each window is to be cut out: bool[max(0, W - words + 1)].
        words: words a window.
    """
    encoded = text.encode("utf-8", "surrogatepass")
    starts, _ = word_bounds(np.frombuffer(encoded, dtype=np.uint8))
    covered = np.zeros(len(starts) + 1, dtype=np.int64)
    marked = np.flatnonzero(windows)
    np.add.at(covered, marked, 1)
    np.add.at(covered, marked + words, -1)
    gone = np.cumsum(covered[:-1]) > 0
    rest = b"".join(encoded[start:end] for start, end in _kept_bytes(starts, gone, len(encoded)))
    return _enough(rest.decode("utf-8", "surrogatepass"))


def _kept_bytes(starts: Integers, gone: Mask, size: int) -> Iterator[tuple[int, int]]:
    """Runs of bytes outside the words that are gone; white space after a word goes with it."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], gone, [False]]).astype(np.int8)))
    position = 0
    for first, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        yield position, int(starts[first])
        position = int(starts[last]) if last < len(starts) else size
    yield position, size


def cut_spans(text: str, spans: Sequence[tuple[int, int]]) -> str | None:
    """The text without some spans of characters, in ascending order; None where too little is left."""
    kept, position = [], 0
    for start, end in spans:
        kept.append(text[position:start])
        position = end
    rest = "".join([*kept, text[position:]])
    return _enough(regex.sub(r"\n{3,}", "\n\n", rest))


def _enough(text: str) -> str | None:
    rest = text.strip()
    return rest if len(rest) >= LEAST_CHARACTERS else None
