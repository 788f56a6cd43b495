"""What the rules measure of a text, each computed at most once and only when a rule asks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final

import numpy as np

from longhaul_ingest.domain import grams
from longhaul_ingest.domain.lines import Booleans, LineTable, measure_lines
from longhaul_ingest.domain.words import (
    ALPHABETIC,
    ALPHANUMERIC,
    Codes,
    Hashes,
    Words,
    code_points,
    hash_word,
    split_words,
)

PARAGRAPH_BREAK: Final = re.compile(r"\n{2,}")
LINE_BREAK: Final = re.compile(r"\n+")


@dataclass(frozen=True, slots=True)
class Repeats:
    """How much of a list of strings was there before: `elements` of `total`, with `characters`."""

    elements: int
    total: int
    characters: int

    @property
    def fraction(self) -> float:
        """Repeated elements a list element."""
        return self.elements / self.total if self.total else 0.0


class Features:
    """The measurable sides of one text."""

    def __init__(
        self, text: str, url: str = "", labels: dict[str, Any] | None = None, before: Features | None = None
    ) -> None:
        self.text = text
        self.url = url
        self.labels: dict[str, Any] = {} if labels is None else labels
        """Language and scores that the filters found out; kept with the document."""
        self.before = before
        """The text as it was before the filter that is asked now rewrote it."""

    def with_text(self, text: str) -> Features:
        """The same document with another text."""
        return Features(text, self.url, self.labels, before=self)

    @cached_property
    def codes(self) -> Codes:
        """The characters as numbers, encoded once for all compiled passes."""
        return code_points(self.text)

    @cached_property
    def words(self) -> Words:
        """The words of the text, split once."""
        return split_words(self.text, self.codes)

    @cached_property
    def line_table(self) -> LineTable:
        """Measures of each line, found in one pass."""
        return measure_lines(self.codes)

    @property
    def lines_padded(self) -> bool:
        """Whether any line has white space around it, or none but white space."""
        table = self.line_table
        return bool((table.ends - table.starts != table.lengths).any())

    @cached_property
    def lowered(self) -> str:
        """The text in lower case, of the same length (what would grow stays as it is)."""
        lowered = self.text.lower()
        return lowered if len(lowered) == len(self.text) else "".join(_lower(one) for one in self.text)

    def lines_with(self, *phrases: str) -> Booleans:
        """Whether each line holds one of some phrases, in whatever case: bool[lines]."""
        found = np.zeros(len(self.line_table), dtype=np.bool_)
        starts = self.line_table.starts
        for phrase in phrases:
            position = self.lowered.find(phrase)
            while position >= 0:
                found[int(np.searchsorted(starts, position, side="right")) - 1] = True
                position = self.lowered.find(phrase, position + 1)
        return found

    @cached_property
    def repeated_solid_lines(self) -> Repeats:
        """Repeats among the lines that hold more than white space."""
        return count_repeats([line for line in self.text.split("\n") if line and not line.isspace()])

    @cached_property
    def lines(self) -> list[str]:
        """The lines, empty ones too."""
        return self.text.splitlines()

    @cached_property
    def repeated_lines(self) -> Repeats:
        """Repeats among the lines, runs of line ends counted as one."""
        return count_repeats(LINE_BREAK.split(self.text))

    @cached_property
    def repeated_paragraphs(self) -> Repeats:
        """Repeats among the blocks that empty lines divide."""
        return count_repeats(PARAGRAPH_BREAK.split(self.text.strip()))

    @cached_property
    def alphanumeric_words(self) -> int:
        """Words with a letter or digit."""
        return int(np.count_nonzero(self.words.flags & ALPHANUMERIC))

    @cached_property
    def mean_word_length(self) -> float:
        """Characters of the words that have a letter or digit, on average."""
        chosen = self.words.lengths[(self.words.flags & ALPHANUMERIC) != 0]
        return float(chosen.mean()) if chosen.size else 0.0

    @cached_property
    def alphabetic_fraction(self) -> float:
        """Share of the words that have a letter."""
        return int(np.count_nonzero(self.words.flags & ALPHABETIC)) / len(self.words) if len(self.words) else 0.0

    def per_word(self, *symbols: str) -> float:
        """Occurrences of the symbols a word."""
        return sum(map(self.text.count, symbols)) / len(self.words) if len(self.words) else 0.0

    def line_fraction(self, *, starts: Sequence[str] = (), ends: Sequence[str] = ()) -> float:
        """Share of the lines that start (end) with one of the strings, white space aside."""
        if not self.lines:
            return 0.0
        begun, ended = tuple(starts), tuple(ends)
        hits = sum(
            bool(begun and line.lstrip().startswith(begun)) or bool(ended and line.rstrip().endswith(ended))
            for line in self.lines
        )
        return hits / len(self.lines)

    def distinct_of(self, wanted: tuple[str, ...]) -> int:
        """How many of some words occur."""
        return int(np.isin(_hashes(wanted), self.words.hashes).sum())

    def count_of(self, wanted: tuple[str, ...]) -> int:
        """How many words, in lower case, are one of some."""
        return int(np.isin(split_words(self.lowered).hashes, _hashes(wanted)).sum())

    def top_gram_fraction(self, n: int) -> float:
        """Share of the characters in the most frequent n-gram."""
        return grams.top_gram_characters(self.words, n) / len(self.text) if self.text else 0.0

    def repeated_gram_fraction(self, n: int) -> float:
        """Share of the characters in repeated n-grams."""
        return grams.repeated_gram_characters(self.words, n) / len(self.text) if self.text else 0.0

    def character_fraction(self, repeats: Repeats) -> float:
        """Share of the characters in repeated elements."""
        return repeats.characters / len(self.text) if self.text else 0.0


def _lower(character: str) -> str:
    lowered = character.lower()
    return lowered if len(lowered) == 1 else character


@lru_cache(maxsize=64)
def _hashes(words: tuple[str, ...]) -> Hashes:
    return np.array(sorted(map(hash_word, set(words))), dtype=np.uint64)


def count_repeats(elements: Sequence[str]) -> Repeats:
    """Count the elements that equal an earlier one."""
    seen: set[str] = set()
    count = characters = 0
    for element in elements:
        if element in seen:
            count += 1
            characters += len(element)
        else:
            seen.add(element)
    return Repeats(count, len(elements), characters)
