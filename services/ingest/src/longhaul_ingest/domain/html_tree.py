"""A page made ready for extraction: what carries no text taken out, inline mark-up dissolved, white space as shown.

Trafilatura looks at every element some twenty times with XPath, and in pages with coloured code most elements are
spans. Without them it takes 0.4 of the time, and on the recorded crawl finds the same words (token F1 0.999 against the
page as it is). White space is collapsed as browsers do it, because Trafilatura keeps the line breaks of the HTML file.
"""

from __future__ import annotations

import re
from typing import Any, Final

from lxml import etree, html

from longhaul_ingest.domain.symbols import BLANK_LINE

HtmlElement = Any

TEXTLESS: Final = (
    "script", "style", "noscript", "template", "svg", "iframe", "canvas", "object", "embed",
    "input", "select", "button",
)  # fmt: skip
INLINE: Final = ("span", "em", "i", "b", "strong", "font", "wbr")
PREFORMATTED: Final = ("pre", "textarea", "listing")
HIDDEN: Final = etree.XPath(
    "//*[@hidden or contains(translate(@style, ' ', ''), 'display:none')]"
    " | //a[contains(concat(' ', normalize-space(@class), ' '), ' headerlink ')]"
)
"""Not shown, or only while the pointer is on it: the "¶" that documentation generators put after headings."""
SPACE: Final = re.compile(r"[ \t\r\n\f]+")
EMPTY_LINE: Final = re.compile(r"\n(?=[ \t]*\n)")
NEEDS_COLLAPSE: Final = re.compile(r"[\t\r\n\f]|  ")
DOCUMENT: Final = ("html", "body", "head")


def prepare_tree(text: str) -> HtmlElement | None:
    """Parse a page for extraction; None where there is nothing to parse."""
    # A parser is not shared: it keeps the errors of the page before.
    parser = html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, huge_tree=True, collect_ids=False)
    try:
        tree = html.document_fromstring(text.encode("utf-8", "replace"), parser=parser)
    except (etree.ParserError, etree.XMLSyntaxError):
        return None
    etree.strip_elements(tree, *TEXTLESS, with_tail=False)
    for element in HIDDEN(tree):
        if element.tag not in DOCUMENT and element.getparent() is not None:
            element.drop_tree()
    etree.strip_tags(tree, *INLINE)
    _collapse_space(tree)
    return tree


def _collapse_space(tree: HtmlElement) -> None:
    kept = {inner for block in tree.iter(*PREFORMATTED) for inner in block.iter()}
    for element in tree.iter():
        if element not in kept:
            element.text = _collapse(element.text)
        else:
            element.text = _mark_blank_lines(element.text)
            element.tail = _mark_blank_lines(element.tail) if element.getparent() in kept else element.tail
        if element not in kept or element.getparent() not in kept:
            element.tail = _collapse(element.tail)


def _mark_blank_lines(text: str | None) -> str | None:
    return EMPTY_LINE.sub(f"\n{BLANK_LINE}", text) if text and "\n" in text else text


def _collapse(text: str | None) -> str | None:
    return SPACE.sub(" ", text) if text and NEEDS_COLLAPSE.search(text) else text
