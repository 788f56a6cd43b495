"""Rules that are off unless a recipe asks for them, each with its reason in docs/data.md."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Final

from longhaul_ingest.domain.language import LABEL, load_model
from longhaul_ingest.domain.refusal import Refusal, above, below
from longhaul_ingest.domain.wordlists import read_list

if TYPE_CHECKING:
    from longhaul_ingest.domain.features import Features

WORD: Final = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
EMOJI: Final = re.compile(
    "[\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff\u2600-\u27bf\u2b00-\u2bff]"
    "(?:\ufe0f|\u200d[\U0001f300-\U0001faff\u2600-\u27bf]|[\U0001f3fb-\U0001f3ff])*"
)
SCRIPT_WORD: Final = re.compile(r"[^\W\d_]{2,}")
LATIN: Final = "aeopcyxijsdhABEKMHOPCTXIJSaopvABEZHIKMNOPTYX"
LOOKALIKES: Final = dict(zip("аеорсухіјѕԁһАВЕКМНОРСТХІЈЅαορνΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", LATIN, strict=True))
"""Cyrillic and Greek letters that look like Latin ones (Unicode TR39, the part that occurs in running text)."""


@dataclass(frozen=True, slots=True)
class Toxicity:
    """Refuses by the user's word lists, or by a fastText model of the user's whose `label` is too likely."""

    name: ClassVar[str] = "toxicity"

    word_files: tuple[str, ...] = ()
    max_word_fraction: float | None = 0.01
    model: str = ""
    label: str = "toxic"
    max_score: float | None = 0.5

    def refusals(self, text: Features) -> Iterator[Refusal]:
        """Too many listed words, or too high a score."""
        if self.word_files and len(text.words):
            share = text.count_of(_listed(self.word_files)) / len(text.words)
            yield from above("max_word_fraction", share, self.max_word_fraction)
        if self.model:
            labels, scores = load_model(self.model).predict(text.text.replace("\n", " "), k=-1)
            found = dict(zip((str(label).removeprefix(LABEL) for label in labels), scores, strict=True))
            score = float(found.get(self.label, 0.0))
            text.labels.setdefault("scores", {})["toxicity"] = round(score, 4)
            yield from above("max_score", score, self.max_score)


@dataclass(frozen=True, slots=True)
class Spelling:
    """Refuses texts of which too few words are in the user's word list: broken OCR, keyboard noise."""

    name: ClassVar[str] = "spelling"

    word_files: tuple[str, ...] = ()
    min_known_fraction: float | None = 0.6

    def refusals(self, text: Features) -> Iterator[Refusal]:
        """Too few known words."""
        words = WORD.findall(text.text)
        if self.word_files and words:
            known = _listed_set(self.word_files)
            share = sum(word.lower() in known for word in words) / len(words)
            text.labels.setdefault("scores", {})["known_words"] = round(share, 4)
            yield from below("min_known_fraction", share, self.min_known_fraction)


@dataclass(frozen=True, slots=True)
class Confusables:
    """Words of two scripts, written to deceive a reader or a filter: made plain, or the text refused.

    With `replace` letters that look like Latin ones become Latin, in words that hold a Latin letter.
    """

    name: ClassVar[str] = "confusables"

    replace: bool = True
    max_mixed_word_fraction: float | None = 0.05

    def rewrite(self, text: Features) -> str:
        """The text with words of mixed letters made Latin."""
        if not self.replace or text.text.isascii():
            return text.text
        return SCRIPT_WORD.sub(lambda word: _latin(word.group()), text.text)

    def refusals(self, text: Features) -> Iterator[Refusal]:
        """Too many words of mixed scripts."""
        original = (text.before or text).text
        words = [] if original.isascii() else SCRIPT_WORD.findall(original)
        if words:
            share = sum(map(_is_mixed, words)) / len(words)
            yield from above("max_mixed_word_fraction", share, self.max_mixed_word_fraction)


@dataclass(frozen=True, slots=True)
class Emoji:
    """Keeps emoji, writes them as their names (`:grinning face:`), or drops them."""

    name: ClassVar[str] = "emoji"

    action: str = "keep"
    max_per_word: float | None = None

    def rewrite(self, text: Features) -> str:
        """The text with emoji as asked for."""
        if self.action == "keep" or text.text.isascii():
            return text.text
        return EMOJI.sub((lambda found: _name(found.group())) if self.action == "name" else "", text.text)

    def refusals(self, text: Features) -> Iterator[Refusal]:
        """Too many emoji a word."""
        if self.max_per_word is not None and len(text.words):
            count = len(EMOJI.findall((text.before or text).text))
            yield from above("max_per_word", count / len(text.words), self.max_per_word)


def _name(emoji: str) -> str:
    names = [unicodedata.name(one, "").lower() for one in emoji if one not in "\ufe0f\u200d"]
    return f":{' '.join(filter(None, names))}:"


def _latin(word: str) -> str:
    return "".join(LOOKALIKES.get(letter, letter) for letter in word) if _is_mixed(word) else word


@lru_cache(maxsize=65536)
def _is_mixed(word: str) -> bool:
    """Whether a word has letters of the Latin script and look-alikes of another."""
    latin = any("a" <= letter.lower() <= "z" for letter in word)
    return latin and any(letter in LOOKALIKES for letter in word)


@lru_cache(maxsize=16)
def _listed(files: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({word for file in files for word in read_list(file)}))


@lru_cache(maxsize=16)
def _listed_set(files: tuple[str, ...]) -> frozenset[str]:
    return frozenset(_listed(files))
