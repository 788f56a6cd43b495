"""The Gopher rules (Rae et al. 2021, appendix A1.1) with their published thresholds; a threshold of None is off.

A rule's name is the parameter that sets its threshold, so that whoever sees what was dropped knows what to change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from longhaul_ingest.domain.refusal import Refusal, above, below

if TYPE_CHECKING:  # measuring needs compiled code, which processes that only check a recipe do without
    from longhaul_ingest.domain.features import Features

ELLIPSES = ("...", "…")
BULLETS = ("•", "-")
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
TOP_GRAMS = (2, 3, 4)
DUPLICATE_GRAMS = (5, 6, 7, 8, 9, 10)


@dataclass(frozen=True, slots=True)
class GopherQuality:
    """Length, symbols, bullets, letters and stop words."""

    name: ClassVar[str] = "gopher_quality"

    min_words: int | None = 50
    max_words: int | None = 100_000
    min_mean_word_length: float | None = 3
    max_mean_word_length: float | None = 10
    max_symbol_word_ratio: float | None = 0.1
    max_bullet_line_fraction: float | None = 0.9
    max_ellipsis_line_fraction: float | None = 0.3
    min_alphabetic_word_fraction: float | None = 0.8
    min_stop_words: int | None = 2
    stop_words: tuple[str, ...] = STOP_WORDS

    def refusals(self, text: Features) -> Iterator[Refusal]:
        """The rules that the text does not meet, in order, measured as they are asked for."""
        yield from below("min_words", text.alphanumeric_words, self.min_words)
        yield from above("max_words", text.alphanumeric_words, self.max_words)
        yield from below("min_mean_word_length", text.mean_word_length, self.min_mean_word_length)
        yield from above("max_mean_word_length", text.mean_word_length, self.max_mean_word_length)
        yield from above("max_symbol_word_ratio", text.per_word("#"), self.max_symbol_word_ratio)
        yield from above("max_symbol_word_ratio", text.per_word(*ELLIPSES), self.max_symbol_word_ratio)
        bullets = text.line_fraction(starts=BULLETS)
        yield from above("max_bullet_line_fraction", bullets, self.max_bullet_line_fraction)
        ellipses = text.line_fraction(ends=ELLIPSES)
        yield from above("max_ellipsis_line_fraction", ellipses, self.max_ellipsis_line_fraction)
        yield from below("min_alphabetic_word_fraction", text.alphabetic_fraction, self.min_alphabetic_word_fraction)
        yield from below("min_stop_words", text.distinct_of(self.stop_words), self.min_stop_words)


@dataclass(frozen=True, slots=True)
class GopherRepetition:
    """Repeated lines, paragraphs and n-grams."""

    name: ClassVar[str] = "gopher_repetition"

    max_duplicate_paragraph_fraction: float | None = 0.30
    max_duplicate_paragraph_character_fraction: float | None = 0.20
    max_duplicate_line_fraction: float | None = 0.30
    max_duplicate_line_character_fraction: float | None = 0.20
    max_top_2gram_fraction: float | None = 0.20
    max_top_3gram_fraction: float | None = 0.18
    max_top_4gram_fraction: float | None = 0.16
    max_duplicate_5gram_fraction: float | None = 0.15
    max_duplicate_6gram_fraction: float | None = 0.14
    max_duplicate_7gram_fraction: float | None = 0.13
    max_duplicate_8gram_fraction: float | None = 0.12
    max_duplicate_9gram_fraction: float | None = 0.11
    max_duplicate_10gram_fraction: float | None = 0.10

    def refusals(self, text: Features) -> Iterator[Refusal]:
        """The rules that the text does not meet, in order, measured as they are asked for."""
        paragraphs, lines = text.repeated_paragraphs, text.repeated_lines
        measured: tuple[tuple[str, float], ...] = (
            ("max_duplicate_paragraph_fraction", paragraphs.fraction),
            ("max_duplicate_paragraph_character_fraction", text.character_fraction(paragraphs)),
            ("max_duplicate_line_fraction", lines.fraction),
            ("max_duplicate_line_character_fraction", text.character_fraction(lines)),
        )
        for rule, value in measured:
            yield from above(rule, value, getattr(self, rule))
        for n in TOP_GRAMS:
            rule = f"max_top_{n}gram_fraction"
            yield from above(rule, text.top_gram_fraction(n), getattr(self, rule))
        for n in DUPLICATE_GRAMS:
            rule = f"max_duplicate_{n}gram_fraction"
            yield from above(rule, text.repeated_gram_fraction(n), getattr(self, rule))
