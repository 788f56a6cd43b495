"""The C4 and FineWeb rules against datatrove's, on the recorded crawl, with the same words and ends of sentences.

Each page is judged twice: as it is extracted, and with its menus and footers, which gets more of them refused. Every
decision is the same. The texts that C4 leaves differ in two intended ways, both where a citation is taken out, and are
counted: datatrove leaves the white space before a citation at the end of a line, and it counts the citation as a word,
so that a line of two words and a citation stays.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest
from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, c4_filters, fineweb_quality_filter
from longhaul_core.recipe import ExtractionMode, SourceKind
from longhaul_ingest.adapters.readers.dispatch import read_piece
from longhaul_ingest.adapters.readers.lines import Fields
from longhaul_ingest.domain.charsets import decode
from longhaul_ingest.domain.documents import Media, Page
from longhaul_ingest.domain.extraction import extractor
from longhaul_ingest.domain.features import Features
from longhaul_ingest.domain.filters import judge
from longhaul_ingest.domain.planning import Piece
from longhaul_ingest.domain.web import C4, FineWeb
from resiliparse.extract.html2text import extract_plain_text

from tests.integration.ingest.support import CRAWL

RULES = {
    "lorem_ipsum": "c4.lorem_ipsum",
    "curly_bracket": "c4.curly_bracket",
    "too_few_sentences": "c4.min_sentences",
    "empty": "fineweb.empty",
    "line_punct_ratio": "fineweb.min_punctuated_line_fraction",
    "short_line_ratio": "fineweb.max_short_line_fraction",
    "char_dup_ratio": "fineweb.max_duplicate_character_fraction",
    "list_ratio": "fineweb.max_newlines_per_word",
}
WORD = re.compile(r"\w+(?:['’-]\w+)*")
SENTENCE = re.compile(r"(?<=[.!?])\s+")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Texts of every second page, with and without menus."""
    piece = Piece(str(CRAWL), CRAWL.name, 0, CRAWL.stat().st_size)
    found = [r for r in read_piece(SourceKind.WARC, piece, Fields()) if isinstance(r, Page) and r.media is Media.HTML]
    decoded = [page for r in found[::2] if (page := decode(r.body, r.charset, html=True)) is not None]
    fast = extractor(ExtractionMode.FAST)
    return [text for page in decoded for text in (fast(page.text), extract_plain_text(page.text, main_content=False))]


@pytest.fixture(autouse=True)
def same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fineweb_quality_filter, "split_into_words", lambda text, language: WORD.findall(text))
    monkeypatch.setattr(c4_filters, "split_into_sentences", lambda text, language: SENTENCE.split(text))


def test_c4_decides_and_rewrites_on_the_crawl_as_datatrove_does(texts: list[str]) -> None:
    theirs = C4QualityFilter(filter_no_terminal_punct=False)
    seen: Counter[str | None] = Counter()
    intended: Counter[str] = Counter()
    for text in texts:
        document = Document(text=text, id="")
        answer = theirs.filter(document)
        expected = None if answer is True else RULES[answer[1]]
        ours = judge([C4()], Features(text))
        assert (ours.refused[0] if ours.refused else None) == expected, text[:200]
        seen[expected] += 1
        if expected is None:
            assert ours.text.split("\n") == _without_traces(document.text, intended)

    assert seen[None] > 300
    assert {rule: count for rule, count in seen.items() if count >= 15}.keys() == {
        None, "c4.curly_bracket", "c4.min_sentences",
    }  # fmt: skip
    assert intended == {"white space before a citation": 38, "line of two words and a citation": 14}


def _without_traces(text: str, intended: Counter[str]) -> list[str]:
    """Lines of datatrove's text as ours are meant to be, the differences counted."""
    lines = []
    for line in text.split("\n"):
        if len(line.split()) < C4().min_words_per_line:
            intended["line of two words and a citation"] += 1
            continue
        intended["white space before a citation"] += line != line.rstrip()
        lines.append(line.rstrip())
    return lines


OFF = {"line_punct_thr": 0.0, "short_line_thr": 1.0, "char_duplicates_ratio": 1.0, "new_line_ratio": 1e9}
OURS_OFF = {
    "min_punctuated_line_fraction": None,
    "max_short_line_fraction": None,
    "max_duplicate_character_fraction": None,
    "max_newlines_per_word": None,
}


@pytest.mark.parametrize(
    ("theirs", "ours", "at_least"),
    [
        (FineWebQualityFilter(), FineWeb(), 300),
        (FineWebQualityFilter(**OFF | {"line_punct_thr": 0.12}), {"min_punctuated_line_fraction": 0.12}, 35),
        (FineWebQualityFilter(**OFF | {"short_line_thr": 0.67}), {"max_short_line_fraction": 0.67}, 30),
        (
            FineWebQualityFilter(**OFF | {"char_duplicates_ratio": 0.01}),
            {"max_duplicate_character_fraction": 0.01},
            200,
        ),
        (FineWebQualityFilter(**OFF | {"new_line_ratio": 0.3}), {"max_newlines_per_word": 0.3}, 10),
    ],
    ids=["whole", "line_punct", "short_line", "char_dup", "list"],
)
def test_fineweb_and_each_of_its_rules_decides_on_the_crawl_as_datatrove_does(
    texts: list[str], theirs: FineWebQualityFilter, ours: FineWeb | dict[str, float], at_least: int
) -> None:
    chain = ours if isinstance(ours, FineWeb) else FineWeb(**OURS_OFF | ours)
    refused = 0
    for text in texts:
        answer = theirs.filter(Document(text=text, id=""))
        found = judge([chain], Features(text)).refused
        assert (found[0] if found else None) == (None if answer is True else RULES[answer[1]]), text[:200]
        refused += answer is not True

    assert at_least <= refused < len(texts)
