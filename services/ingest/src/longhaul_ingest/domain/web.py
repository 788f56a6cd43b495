"""Rules for web pages: C4 (Raffel et al. 2020), FineWeb (Penedo et al. 2024), and repeated lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from longhaul_ingest.domain.refusal import Refusal, above, below

if TYPE_CHECKING:
    from longhaul_ingest.domain.features import Features
    from longhaul_ingest.domain.lines import Booleans

CITATION: Final = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
LOREM: Final = "lorem ipsum"
SCRIPT: Final = "javascript"
POLICIES: Final = (
    "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class C4:
    """Takes out lines that are no prose, then refuses what is left of too few sentences. For English.

    Lines without a final full stop stay by default, as in FineWeb; `terminal_punctuation` is the paper's rule.
    """

    name: ClassVar[str] = "c4"

    min_sentences: int | None = 5
    min_words_per_line: int | None = 3
    max_word_length: int | None = 1000
    terminal_punctuation: bool = False
    citations: bool = True
    lorem_ipsum: bool = True
    curly_bracket: bool = True
    javascript: bool = True
    policy: bool = True

    def rewrite(self, text: Features) -> str:
        """The text without the lines that are no prose."""
        if self.citations and "[" in text.text and (cut := CITATION.sub("", text.text)) != text.text:
            text = text.with_text(cut)
        keep = self._kept(text)
        if keep.all() and not text.lines_padded:
            return text.text
        table = text.line_table
        pairs = zip(table.starts[keep].tolist(), table.ends[keep].tolist(), strict=True)
        whole = text.text
        return "\n".join([whole[start:end] for start, end in pairs])

    def refusals(self, text: Features) -> Iterator[Refusal]:
        """Rules over the page as it was, for what taints a page; then over what is left of it."""
        before = text.before or text
        prose = self._prose(before)
        for wanted, rule, marked in (
            (self.lorem_ipsum, "lorem_ipsum", before.lines_with(LOREM)),
            (self.curly_bracket, "curly_bracket", before.line_table.curly & ~self._scripts(before)),
        ):
            found = int((marked & prose).sum()) if wanted else 0
            if found:
                yield Refusal(rule, found, 0)
        yield from below("min_sentences", int(text.line_table.sentences.sum()), self.min_sentences)

    def _scripts(self, text: Features) -> Booleans:
        found = text.lines_with(SCRIPT)
        return found & self.javascript

    def _prose(self, text: Features) -> Booleans:
        table = text.line_table
        prose = ~table.blank
        if self.max_word_length is not None:
            prose &= table.longest <= self.max_word_length
        if self.terminal_punctuation:
            prose &= table.closed
        if self.min_words_per_line is not None:
            prose &= table.words >= self.min_words_per_line
        return prose

    def _kept(self, text: Features) -> Booleans:
        keep = self._prose(text) & ~self._scripts(text)
        if self.policy:
            keep &= ~text.lines_with(*POLICIES)
        return keep


@dataclass(frozen=True, slots=True)
class FineWeb:
    """Refuses lists, menus and pages of repeated lines."""

    name: ClassVar[str] = "fineweb"

    min_punctuated_line_fraction: float | None = 0.12
    max_short_line_fraction: float | None = 0.67
    short_line_characters: int = 30
    max_duplicate_character_fraction: float | None = 0.01
    max_newlines_per_word: float | None = 0.3

    def refusals(self, text: Features) -> Iterator[Refusal]:
        """The rules that the text does not meet, in order."""
        table = text.line_table
        solid = ~table.blank
        lines = int(solid.sum())
        if not lines:
            yield Refusal("empty", 0, 1)
            return
        punctuated = int((table.punctuated & solid).sum()) / lines
        yield from below("min_punctuated_line_fraction", punctuated, self.min_punctuated_line_fraction)
        short = int(((table.lengths <= self.short_line_characters) & solid).sum()) / lines
        yield from above("max_short_line_fraction", short, self.max_short_line_fraction)
        newlines = text.text.count("\n")
        repeated = text.repeated_solid_lines.characters / (len(text.text) - newlines)
        yield from above("max_duplicate_character_fraction", repeated, self.max_duplicate_character_fraction)
        per_word = newlines / len(text.words) if len(text.words) else float("inf")
        yield from above("max_newlines_per_word", per_word, self.max_newlines_per_word)


@dataclass(frozen=True, slots=True)
class LineDeduplication:
    """Takes out lines that stood before in the same document: menus and footers of pages glued together."""

    name: ClassVar[str] = "line_dedup"

    min_characters: int = 20

    def rewrite(self, text: Features) -> str:
        """The text with the first of equal lines only; short ones may repeat."""
        if text.repeated_solid_lines.elements == 0:
            return text.text
        seen: set[str] = set()
        kept = []
        for line in text.text.split("\n"):
            if len(line) >= self.min_characters:
                if line in seen:
                    continue
                seen.add(line)
            kept.append(line)
        return "\n".join(kept)

    def refusals(self, text: Features) -> Iterator[Refusal]:
        """None: what is left is judged by the other rules."""
        yield from ()
