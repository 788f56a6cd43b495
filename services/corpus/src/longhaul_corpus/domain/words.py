"""Words of a text as every comparison between documents sees them: lower case, numbers as 0, no marks, no accents.

The same simplification as datatrove's `simplify_text`, so that clusters can be compared with datatrove's, as one
compiled pass over code points (about 150 MB/s a core on ASCII). Scripts written without spaces are cut into characters,
or a whole paragraph would be one word.
"""

import functools
import unicodedata
from typing import Any

import numpy as np
import numpy.typing as npt
import regex
from datatrove.utils.text import PUNCTUATION
from longhaul_core.compiled import compiled

Bytes = npt.NDArray[np.uint8]
Classes = npt.NDArray[np.uint8]
Codes = npt.NDArray[Any]
"""Code points: uint8 where all are ASCII, else uint32."""

KEEP, SPACE, DIGIT, CHARACTER_WORD = 0, 1, 2, 3
_TABLE_SIZE = 0x20000
_UNSPACED_SCRIPTS = (
    *((0x0E01, 0x0E3B), (0x0E40, 0x0E50)),  # Thai
    *((0x0E81, 0x0EE0), (0x1000, 0x10A0), (0x1780, 0x17D4)),  # Lao, Burmese, Khmer
    *((0x3041, 0x3100), (0x31F0, 0x3200)),  # kana
    *((0x2E80, 0x2FE0), (0x3005, 0x3008), (0x3021, 0x302A)),  # radicals and marks
    *((0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00)),  # ideographs
)
_DECIMAL_SEPARATORS = np.array([ord(c) for c in ".,،٫⎖⎗⎘"], dtype=np.uint32)
_NONSPACING_MARKS = regex.compile(r"\p{Mn}+")


@functools.cache
def character_classes() -> Classes:
    """Class of each code point below 0x20000: kept, a separator, a digit, or a word of its own."""
    table = np.zeros(_TABLE_SIZE, dtype=np.uint8)
    for start, end in _UNSPACED_SCRIPTS:
        table[start:end] = CHARACTER_WORD
    for code in range(_TABLE_SIZE):
        character = chr(code)
        if character.isspace():
            table[code] = SPACE
        elif unicodedata.category(character) == "Nd":
            table[code] = DIGIT
    for character in PUNCTUATION:
        table[ord(character)] = SPACE
    return table


@compiled
def _class_of(code: int, classes: Classes) -> int:
    if code < 0x20000:
        return classes[code]  # type: ignore[no-any-return]
    return 3 if code < 0x40000 else 0


@compiled
def _end_of_number(codes: Codes, start: int, classes: Classes, separators: npt.NDArray[np.uint32]) -> int:
    """Index after the number at `start`: digits, then at most one decimal separator with digits."""
    count = len(codes)
    i = start
    while i < count and _class_of(codes[i], classes) == 2:
        i += 1
    if i + 1 < count and _class_of(codes[i + 1], classes) == 2:
        for separator in separators:
            if codes[i] == separator:
                i += 1
                while i < count and _class_of(codes[i], classes) == 2:
                    i += 1
                break
    return i


@compiled
def _simplify(codes: Codes, classes: Classes, separators: npt.NDArray[np.uint32], out: Codes) -> int:
    """Write the simplified code points to `out` (twice as long as `codes`) and return how many there are."""
    written = 0
    pending = False
    i = 0
    while i < len(codes):
        kind = _class_of(codes[i], classes)
        if kind == 1:
            pending = True
            i += 1
            continue
        if (pending or kind == 3) and written > 0:
            out[written] = 32
            written += 1
        pending = kind == 3
        if kind == 2:
            out[written] = 48
            i = _end_of_number(codes, i, classes, separators)
        else:
            out[written] = codes[i]
            i += 1
        written += 1
    return written


def simplified_bytes(text: str) -> Bytes:
    """Simplified text in UTF-8 with one space between words: uint8[bytes]."""
    lowered = text.lower()
    ascii_only = lowered.isascii()
    encoded = lowered.encode("ascii") if ascii_only else lowered.encode("utf-32-le", "surrogatepass")
    codes: Codes = np.frombuffer(encoded, dtype=np.uint8 if ascii_only else np.uint32)
    out = np.empty(2 * len(codes), dtype=codes.dtype)
    written = _simplify(codes, character_classes(), _DECIMAL_SEPARATORS, out)
    if ascii_only:
        return out[:written]
    simplified = out[:written].tobytes().decode("utf-32-le", "surrogatepass")
    stripped = _NONSPACING_MARKS.sub("", unicodedata.normalize("NFD", simplified))
    return np.frombuffer(bytearray(" ".join(stripped.split()).encode("utf-8", "surrogatepass")), dtype=np.uint8)


def simplified_text(text: str) -> str:
    """Simplified text with one space between words."""
    return simplified_bytes(text).tobytes().decode("utf-8", "surrogatepass")


def split_words(text: str) -> list[str]:
    """Words of the text, simplified."""
    return simplified_text(text).split()


@compiled
def word_spans(simplified: Bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Start and end (exclusive) byte of each word of a simplified text: int64[words] each."""
    count = 0 if len(simplified) == 0 else 1
    for byte in simplified:
        count += byte == 32
    starts = np.empty(count, dtype=np.int64)
    ends = np.empty(count, dtype=np.int64)
    word = 0
    start = 0
    for i in range(len(simplified)):
        if simplified[i] == 32:
            starts[word] = start
            ends[word] = i
            word += 1
            start = i + 1
    if count:
        starts[word] = start
        ends[word] = len(simplified)
    return starts, ends
