"""Records to decisions, and what the last touch does to a text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longhaul_core.recipe import ExtractionMode
from longhaul_ingest.domain.cleaning import clean_text
from longhaul_ingest.domain.documents import Document, Media, Outcome, Page, Passage, Refused, dropped
from longhaul_ingest.domain.extraction import extractor
from longhaul_ingest.domain.filters import build_filter
from longhaul_ingest.domain.nesting import nesting_depth
from longhaul_ingest.domain.pipeline import Pipeline

PROSE = "This is a sentence of the kind that people write, and it has a number of words in it. " * 8


def pipeline(mode: ExtractionMode = ExtractionMode.FAST, *filters: str) -> Pipeline:
    return Pipeline(extractor(mode), [build_filter(name, {}) for name in filters])


def decide(page: Page | Passage | Refused, *filters: str) -> tuple[Outcome, str]:
    decision = pipeline(ExtractionMode.FAST, *filters).decide(page)
    return (Outcome.KEPT, "") if isinstance(decision, Document) else (decision.outcome, decision.rule)


@pytest.mark.parametrize("mode", list(ExtractionMode))
def test_page_gives_its_main_text_without_navigation_or_script(mode: ExtractionMode) -> None:
    html = (
        "<html><head><title>T</title><script>var hidden = 1</script></head><body><nav><a href=/>Home</a></nav>"
        f"<main><h1>Heading<a class='headerlink' href='#h'>¶</a></h1><p>{PROSE}</p>"
        f"<pre>def f():\n    return 1\n</pre><p>{PROSE}</p></main><footer>Imprint</footer></body></html>"
    )
    decision = pipeline(mode).decide(Page("http://a/", html.encode(), Media.HTML, "utf-8", {"file": "x"}))

    assert isinstance(decision, Document)
    assert "a number of words" in decision.text
    assert "def f():\n    return 1" in decision.text
    assert all(unwanted not in decision.text for unwanted in ("hidden", "Home", "¶"))
    assert decision.extra == {"file": "x", "charset": "utf-8"}


def test_records_without_text_end_by_named_rules() -> None:
    assert decide(Page("u", b"", Media.HTML)) == (Outcome.DROPPED, "empty_body")
    assert decide(Page("u", b"<html><body></body></html>", Media.HTML)) == (Outcome.DROPPED, "empty_extraction")
    assert decide(Page("u", b"\x89PNG\0\0\0", Media.HTML)) == (Outcome.FAILED, "binary")
    assert decide(Passage("u", " \n\t ")) == (Outcome.DROPPED, "empty_text")
    assert decide(dropped("u", "http_status", "404")) == (Outcome.DROPPED, "http_status")


def test_filters_decide_in_their_order_and_name_filter_and_rule() -> None:
    repeated = Passage("u", "the same line of words\n" * 30)

    assert decide(repeated, "gopher_repetition", "gopher_quality")[1].startswith("gopher_repetition.")
    assert decide(Passage("u", "few words"), "gopher_quality") == (Outcome.DROPPED, "gopher_quality.min_words")
    assert decide(repeated) == (Outcome.KEPT, "")


def test_extractor_that_raises_fails_the_page_only() -> None:
    def explode(html: str) -> str:
        raise RecursionError("too deep")

    decision = Pipeline(explode, []).decide(Page("u", b"<p>x</p>", Media.HTML))

    assert isinstance(decision, Refused)
    assert (decision.rule, decision.detail) == ("extraction_error", "RecursionError: too deep")


def test_deeply_nested_page_fails_before_a_parser_meets_it() -> None:
    html = b"<html><body>" + b"<div>" * 1_000_000 + PROSE.encode() + b"</div>" * 1_000_000

    assert decide(Page("u", html, Media.HTML)) == (Outcome.FAILED, "nested_too_deep")


@pytest.mark.parametrize("mode", list(ExtractionMode))
def test_page_nested_up_to_the_limit_is_read(mode: ExtractionMode) -> None:
    html = f"<html><body>{'<div>' * 1000}<p>{PROSE}</p>{'</div>' * 1000}</body></html>"
    decision = pipeline(mode).decide(Page("u", html.encode(), Media.HTML))

    assert not isinstance(decision, Refused) or decision.rule == "empty_extraction"


@pytest.mark.parametrize(
    ("html", "depth"),
    [
        ("", 0),
        ("<", 0),
        ("a < b <c", 1),
        ("<div><DIV><b></b></div></div><section>", 3),
        ("<p><p><br><li><img><td>" * 2000, 0),
        ("<h1><h2></h2></h1>" * 9, 2),
        ("</div></div><div>", 1),
    ],
)
def test_nesting_depth_counts_elements_that_need_an_end_tag(html: str, depth: int) -> None:
    assert nesting_depth(html) == depth


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("a  \t\n\n\n\n\nb\n", "a\n\nb"),
        ("nul\0 and \x07bell", "nul and bell"),
        ("half \ud83d pair", "half  pair"),
        ("\ufeffmark", "mark"),
        ("\n\n    indented\n\ttab", "    indented\n\ttab"),
        ("emoji 🎉 stays", "emoji 🎉 stays"),
    ],
)
def test_clean_text_removes_damage_and_keeps_form(text: str, clean: str) -> None:
    assert clean_text(text) == clean


@given(st.text())
def test_clean_text_twice_is_once_and_is_valid_utf8(text: str) -> None:
    clean = clean_text(text)

    assert clean_text(clean) == clean
    clean.encode("utf-8")
