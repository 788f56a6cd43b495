r"""The words of a document, found once and used by every rule.

A word is what the pattern ``\w+(?:['’-]\w+)*`` matches: letters, digits and underscores, with single apostrophes and
hyphens inside. Punctuation alone is no word, so that prose with code in it is not mistaken for symbols. Words are
kept as 64-bit hashes and lengths, not as strings: 60 MB/s a core where the pattern itself reaches 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from datatrove.utils.text import TERMINAL_PUNCTUATION
from longhaul_core.compiled import compiled

WORD: Final = 1
ALPHABETIC: Final = 2
CONNECTOR: Final = 4
ALPHANUMERIC: Final = 8
SPACE: Final = 16
TERMINAL: Final = 32
"""Ends a line of prose (the characters that datatrove's FineWeb filter takes)."""
LOWER: Final = 64
SENTENCE_END: Final = 128
"""A full stop, a question or an exclamation mark of any script."""
CONNECTORS: Final = "'’-"
SENTENCE_MARKS: Final = ".?!。！？؟।։።…"
TERMINAL_MARKS: Final = "".join(sorted(TERMINAL_PUNCTUATION))
FNV_OFFSET: Final = np.uint64(0xCBF29CE484222325)
FNV_PRIME: Final = np.uint64(0x100000001B3)

Hashes = npt.NDArray[np.uint64]
Lengths = npt.NDArray[np.int32]
Flags = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Words:
    """The words of one text in order.

    Attributes:
        hashes: uint64[W], equal for equal words.
        lengths: int32[W], characters of each word.
        flags: uint8[W], classes of the characters in each word, joined by OR.
    """

    hashes: Hashes
    lengths: Lengths
    flags: Flags

    def __len__(self) -> int:
        return len(self.hashes)


def code_points(text: str) -> Codes:
    """The characters of `text` as numbers: uint32[characters]."""
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)


def split_words(text: str, codes: Codes | None = None) -> Words:
    """Find the words of `text`, whose `code_points` may be given."""
    return Words(*_split(code_points(text) if codes is None else codes, character_classes()))


def hash_word(word: str) -> int:
    """The hash that `split_words` gives to `word`."""
    return int(split_words(word).hashes[0])


@lru_cache(maxsize=1)
def character_classes() -> Flags:
    """uint8[0x110000]: the classes of each code point (built once a process, about 0.3 s)."""
    table = np.zeros(0x110000, dtype=np.uint8)
    for code in range(0x110000):
        character = chr(code)
        if character.isalnum():
            table[code] = WORD | ALPHANUMERIC | (ALPHABETIC if character.isalpha() else 0)
            table[code] |= LOWER if character.islower() else 0
        elif character.isspace():
            table[code] = SPACE
    table[ord("_")] = WORD
    for character in TERMINAL_MARKS:
        table[ord(character)] |= TERMINAL
    for character in SENTENCE_MARKS:
        table[ord(character)] |= SENTENCE_END
    for character in CONNECTORS:
        table[ord(character)] |= CONNECTOR
    return table


@compiled
def _split(codes: npt.NDArray[np.uint32], classes: Flags) -> tuple[Hashes, Lengths, Flags]:
    size = codes.size
    hashes = np.empty(size // 2 + 1, dtype=np.uint64)
    lengths = np.empty(size // 2 + 1, dtype=np.int32)
    flags = np.empty(size // 2 + 1, dtype=np.uint8)
    count = 0
    position = 0
    while position < size:
        if classes[codes[position]] & WORD == 0:
            position += 1
            continue
        start = position
        value = FNV_OFFSET
        seen = np.uint8(0)
        while position < size:
            kind = classes[codes[position]]
            inside = kind & CONNECTOR != 0 and position + 1 < size and classes[codes[position + 1]] & WORD != 0
            if kind & WORD == 0 and not inside:
                break
            value = (value ^ np.uint64(codes[position])) * FNV_PRIME
            seen |= kind
            position += 1
        value ^= value >> np.uint64(29)
        hashes[count] = value * np.uint64(0xBF58476D1CE4E5B9)
        lengths[count] = position - start
        flags[count] = seen
        count += 1
    return hashes[:count], lengths[:count], flags[:count]
