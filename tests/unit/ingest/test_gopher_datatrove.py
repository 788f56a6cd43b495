"""The Gopher rules against datatrove's, on the recorded crawl, with the same words.

Two differences are intended and do not occur here: datatrove joins the words of an n-gram without a space, so that
"ab c" and "a bc" are one to it, and it takes a word of full-width digits alone for punctuation.
"""

from __future__ import annotations

import re

import pytest
from datatrove.data import Document
from datatrove.pipeline.filters import (
    GopherQualityFilter,
    GopherRepetitionFilter,
    gopher_quality_filter,
    gopher_repetition_filter,
)
from longhaul_core.recipe import ExtractionMode, SourceKind
from longhaul_ingest.adapters.readers.damage import Damage
from longhaul_ingest.adapters.readers.dispatch import read_piece
from longhaul_ingest.adapters.readers.lines import Fields
from longhaul_ingest.domain import documents
from longhaul_ingest.domain.extraction import extractor
from longhaul_ingest.domain.features import Features
from longhaul_ingest.domain.filters import first_refusal
from longhaul_ingest.domain.gopher import GopherQuality, GopherRepetition
from longhaul_ingest.domain.pipeline import Pipeline
from longhaul_ingest.domain.planning import Piece

from tests.integration.ingest.support import CRAWL

RULES = {
    "dup_para_frac": "max_duplicate_paragraph_fraction",
    "dup_para_char_frac": "max_duplicate_paragraph_character_fraction",
    "dup_line_frac": "max_duplicate_line_fraction",
    "dup_line_char_frac": "max_duplicate_line_character_fraction",
    **{f"top_{n}_gram": f"max_top_{n}gram_fraction" for n in (2, 3, 4)},
    **{f"duplicated_{n}_n_grams": f"max_duplicate_{n}gram_fraction" for n in range(5, 11)},
    "gopher_short_doc": "min_words",
    "gopher_long_doc": "max_words",
    "gopher_below_avg_threshold": "min_mean_word_length",
    "gopher_above_avg_threshold": "max_mean_word_length",
    "gopher_too_many_hashes": "max_symbol_word_ratio",
    "gopher_too_many_ellipsis": "max_symbol_word_ratio",
    "gopher_too_many_bullets": "max_bullet_line_fraction",
    "gopher_too_many_end_ellipsis": "max_ellipsis_line_fraction",
    "gopher_below_alpha_threshold": "min_alphabetic_word_fraction",
    "gopher_enough_stop_words": "min_stop_words",
}


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Every second text of the crawl, extracted and cleaned but not filtered; datatrove takes 20 ms for each."""
    piece = Piece(str(CRAWL), CRAWL.name, 0, CRAWL.stat().st_size)
    pipeline = Pipeline(extractor(ExtractionMode.FAST), ())
    decisions = [
        pipeline.decide(record)
        for record in read_piece(SourceKind.WARC, piece, Fields())
        if not isinstance(record, Damage)
    ]
    return [decision.text for decision in decisions if isinstance(decision, documents.Document)][::2]


def test_rules_on_the_crawl_decide_as_datatrove_does(texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = re.compile(r"\w+(?:['’-]\w+)*")
    for module in (gopher_quality_filter, gopher_repetition_filter):
        monkeypatch.setattr(module, "split_into_words", lambda text, language: pattern.findall(text))
    pairs = ((GopherRepetition(), GopherRepetitionFilter()), (GopherQuality(), GopherQualityFilter()))
    refused = 0

    assert len(texts) > 200
    for text in texts:
        for ours, theirs in pairs:
            mine = first_refusal([ours], Features(text))
            other = theirs.filter(Document(text=text, id=""))
            expected = None if other is True else RULES[other[1]]
            assert (mine and mine[1].rule) == expected, text[:200]
            refused += expected is not None
    assert refused > 30
