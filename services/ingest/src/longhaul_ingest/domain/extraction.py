"""The main text of an HTML page: Trafilatura where quality counts, Resiliparse where speed does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from longhaul_core.recipe import ExtractionMode

PERMALINKS: Final = "//a[contains(concat(' ', normalize-space(@class), ' '), ' headerlink ')]"
"""The "¶" that documentation generators put after headings and signatures."""

Extract = Callable[[str], str]


def extractor(mode: ExtractionMode) -> Extract:
    """The function from HTML to text; empty where the page has no main text."""
    return _extract_fast if mode is ExtractionMode.FAST else _quality()


def _quality() -> Extract:
    # Heavy to import, and of use in worker processes only.
    import trafilatura

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # it logs each page without text

    def extract(html: str) -> str:
        # Its own duplicate filter would make a page's text depend on the pages that this process saw before.
        text = trafilatura.extract(
            html, favor_precision=True, include_comments=False, deduplicate=False, prune_xpath=PERMALINKS
        )
        return text or ""

    return extract


def _extract_fast(html: str) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    text: str = extract_plain_text(html, main_content=True, alt_texts=False)
    return text
