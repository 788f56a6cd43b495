"""The main text of an HTML page: Trafilatura where quality counts, Resiliparse where speed does."""

from __future__ import annotations

import logging
from collections.abc import Callable

from longhaul_core.recipe import ExtractionMode

Extract = Callable[[str], str]


def extractor(mode: ExtractionMode) -> Extract:
    """The function from HTML to text; it returns an empty text where the page has no main text."""
    return _extract_fast if mode is ExtractionMode.FAST else _quality()


def _quality() -> Extract:
    # Heavy to import, and of use in worker processes only.
    import trafilatura

    from longhaul_ingest.domain.html_tree import prepare_tree

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # it logs each page without text

    def extract(html: str) -> str:
        tree = prepare_tree(html)
        if tree is None:
            return ""
        # Its own duplicate filter would make a page's text depend on the pages that this process saw before.
        text = trafilatura.extract(tree, favor_precision=True, include_comments=False, deduplicate=False)
        return text or ""

    return extract


def _extract_fast(html: str) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    text: str = extract_plain_text(html, main_content=True, alt_texts=False)
    return text
