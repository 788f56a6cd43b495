"""The main text of an HTML page: Trafilatura where quality counts, Resiliparse where speed does."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Final

from longhaul_core.recipe import ExtractionMode

from longhaul_ingest.domain.symbols import guard, unguard, write_out_symbols

Extract = Callable[[str], str]
FOUND_CHARACTERS: Final = 250
SPAN: Final = re.compile(r"</?span(?:\s[^<>]*)?>")
TELLING_SPAN: Final = re.compile(r"<span\s[^<>]*\b(?:hidden|style|aria-hidden)\b")
"""Attributes that can hide an element; classes cannot without a style sheet, which nobody reads here."""


def extractor(mode: ExtractionMode) -> Extract:
    """The function from HTML to text; it returns an empty text where the page has no main text."""
    return _extract_fast if mode is ExtractionMode.FAST else _quality()


def _quality() -> Extract:
    # Heavy to import, and of use in worker processes only.
    import trafilatura

    from longhaul_ingest.domain.html_tree import prepare_tree

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # it logs each page without text

    def extract(html: str) -> str:
        html = guard(write_out_symbols(html))
        # Without Trafilatura's two other algorithms for comparison: half the time, and on documentation, where the
        # truth is known, the better text (docs/benchmarks.md). They are asked where it finds next to nothing.
        text = attempt(html, fast=True)
        return unguard(text if len(text) >= FOUND_CHARACTERS else max(text, attempt(html, fast=False), key=len))

    def attempt(html: str, *, fast: bool) -> str:
        tree = prepare_tree(without_spans(html))
        if tree is None:
            return ""
        # Its own duplicate filter would make a page's text depend on the pages that this process saw before.
        text = trafilatura.extract(tree, favor_precision=True, include_comments=False, deduplicate=False, fast=fast)
        return text or ""

    return extract


def _extract_fast(html: str) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    html = without_spans(write_out_symbols(html))
    text: str = extract_plain_text(html, main_content=True, alt_texts=False)
    return text


def without_spans(html: str) -> str:
    """The page without its span tags: in pages with coloured code most elements are spans, and parsing is most work.

    A page in which a span may be hidden keeps all of them, and one that writes tags in capitals those.
    """
    return html if TELLING_SPAN.search(html) else SPAN.sub("", html)
