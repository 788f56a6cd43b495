"""What the line rules measure of each line, found in one compiled pass over the characters of a text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from longhaul_core.compiled import compiled

from longhaul_ingest.domain.words import LOWER, SENTENCE_END, SPACE, TERMINAL, Codes, Flags, character_classes

Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

_NEWLINE = 10
_CURLY = 123
_FULL_STOP = 46
_QUOTES = (34, 39)
_C4_ENDS = (46, 63, 33, 34, 39)
_CLOSERS = (34, 39, 41, 93, 0x2019, 0x201D)


@dataclass(frozen=True, slots=True)
class LineTable:
    """One entry a line; a line break at the end of the text begins no further line.

    Attributes:
        starts, ends: characters of the text between which the line stands, white space around it left out: int64[L].
        lengths: characters of the whole line: int64[L].
        words: runs of characters that are no white space: int64[L].
        longest: characters of the longest such run: int64[L].
        sentences: full stops and the like that end a sentence, and the end of the line: int64[L].
        punctuated: whether it ends with a mark that ends prose (any script): bool[L].
        closed: whether it ends with one of . ? ! " ' and not with an ellipsis, as C4 wants: bool[L].
        curly: whether it holds a curly bracket: bool[L].
    """

    starts: Integers
    ends: Integers
    lengths: Integers
    words: Integers
    longest: Integers
    sentences: Integers
    punctuated: Booleans
    closed: Booleans
    curly: Booleans

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def blank(self) -> Booleans:
        """Whether a line holds nothing but white space."""
        return np.asarray(self.words == 0)


def measure_lines(codes: Codes) -> LineTable:
    """Measure every line of a text given as code points."""
    return LineTable(*_measure(codes, character_classes()))


@compiled
def _is_one_of(code: int, wanted: tuple[int, ...]) -> bool:
    for other in wanted:  # noqa: SIM110  (compiled: any() over a generator is not)
        if code == other:
            return True
    return False


@compiled
def _ends_sentence(codes: Codes, position: int, stop: int, classes: Flags) -> bool:
    """Whether the mark at `position` is followed by white space and no small letter, closing quotes aside."""
    following = position + 1
    while following < stop and _is_one_of(codes[following], _CLOSERS):
        following += 1
    if following >= stop or classes[codes[following]] & SPACE == 0:
        return False
    while following < stop and classes[codes[following]] & SPACE != 0:
        following += 1
    return following < stop and classes[codes[following]] & LOWER == 0


@compiled
def _measure(
    codes: Codes, classes: Flags
) -> tuple[Integers, Integers, Integers, Integers, Integers, Integers, Booleans, Booleans, Booleans]:
    size = codes.size
    count = 0
    for position in range(size):
        count += codes[position] == _NEWLINE
    if size > 0 and codes[size - 1] != _NEWLINE:
        count += 1
    numbers = np.zeros((6, count), dtype=np.int64)
    marks = np.zeros((3, count), dtype=np.bool_)
    line = 0
    begin = 0
    while line < count:
        end = begin
        while end < size and codes[end] != _NEWLINE:
            end += 1
        _measure_line(codes, classes, begin, end, line, numbers, marks)
        line += 1
        begin = end + 1
    return (numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], marks[0], marks[1], marks[2])


@compiled
def _measure_line(
    codes: Codes, classes: Flags, begin: int, end: int, line: int, numbers: Integers, marks: Booleans
) -> None:
    start, stop = begin, end
    while start < stop and classes[codes[start]] & SPACE != 0:
        start += 1
    while stop > start and classes[codes[stop - 1]] & SPACE != 0:
        stop -= 1
    words = longest = run = sentences = 0
    for position in range(start, stop):
        code = codes[position]
        kind = classes[code]
        if kind & SPACE != 0:
            run = 0
            continue
        words += run == 0
        run += 1
        longest = max(longest, run)
        if code == _CURLY:
            marks[2, line] = True
        if kind & SENTENCE_END != 0 and _ends_sentence(codes, position, stop, classes):
            sentences += 1
    numbers[0, line] = start
    numbers[1, line] = stop
    numbers[2, line] = end - begin
    numbers[3, line] = words
    numbers[4, line] = longest
    numbers[5, line] = sentences + (1 if words > 0 else 0)
    if end > begin:
        marks[0, line] = classes[codes[end - 1]] & TERMINAL != 0
    if stop > start and _is_one_of(codes[stop - 1], _C4_ENDS):
        dots = 0
        while dots < 3 and stop - 1 - dots >= start and codes[stop - 1 - dots] == _FULL_STOP:
            dots += 1
        marks[1, line] = dots < 3
