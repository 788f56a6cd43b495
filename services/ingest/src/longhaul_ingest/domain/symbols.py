r"""Mathematics and emoji of a page as text, before its main text is taken out: extractors drop or double them.

Formulas become TeX between `\(` and `\)`, or `\[` and `\]` where they stand alone, as MathJax reads them.
"""

from __future__ import annotations

import html as entities
import re
from typing import Final

FORMULA: Final = re.compile(r"<math\b([^<>]*)>((?:(?!<math\b).)*?)</math>", re.DOTALL)
"""It ends before the next opening tag, so that tags which are never closed cost no more than reading them once."""
SCRIPT: Final = re.compile(
    r"<script\s[^<>]*type=[\"']?math/tex([^\"'<>]*)[^<>]*>((?:(?!<script\b).)*?)</script>", re.DOTALL
)
ANNOTATION: Final = re.compile(r"<annotation\b[^<>]*application/x-tex[^<>]*>([^<]*)</annotation>")
ANY_ANNOTATION: Final = re.compile(r"<(annotation(?:-xml)?)\b[^<>]*>(?:(?!<annotation).)*?</\1>", re.DOTALL)
TAG: Final = re.compile(r"<[^<>]*>")
SHOWN_TWICE: Final = re.compile(r"<span\s[^<>]*class=[\"']katex-html[\"'][^<>]*>")
SPAN_TAG: Final = re.compile(r"<(/?)span\b[^<>]*>", re.IGNORECASE)
IMAGE: Final = re.compile(r"<img\s[^<>]*>")
TELLING_IMAGE: Final = ("emoji", "mwe-math", "latex")
ALT: Final = re.compile(r"\balt=(?:\"([^\"]*)\"|'([^']*)')")
MATH_IMAGE: Final = re.compile(r"class=[\"'][^\"']*\b(?:mwe-math|latex\b)")
EMOJI_IMAGE: Final = re.compile(r"class=[\"'][^\"']*emoji")
MOST_EMOJI_CHARACTERS: Final = 16

JOINERS: Final = {"\u200d": "\U00010a7f", "\u200c": "\U00010a7e"}
"""Characters that bind emoji, or part letters, and what stands for them while Trafilatura, which drops them, works."""
NAMED_JOINER: Final = re.compile(r"&(?:zwn?j|#820[45]|#x200[cd]);", re.IGNORECASE)
BLANK_LINE: Final = "\U00010a7d"
"""Stands in an empty line of preformatted text, which Trafilatura drops."""


def write_out_symbols(html: str) -> str:
    """The page with formulas and emoji images as text."""
    if "math" in html:  # each look through a page of 60 KB takes 2 % of the whole fast extraction
        html = _without_doubles(html) if "katex-html" in html else html
        html = SCRIPT.sub(lambda found: _tex(entities.unescape(found[2]), alone="display" in found[1]), html)
        html = FORMULA.sub(_formula, html)
    if "<img" in html and any(sign in html for sign in TELLING_IMAGE):
        html = IMAGE.sub(_image, html)
    return html


def guard(html: str) -> str:
    """The page with stand-ins for its joiners; stand-ins of its own, letters of a script long dead, go."""
    html = NAMED_JOINER.sub(lambda found: entities.unescape(found[0]), html)
    for stand_in in (*JOINERS.values(), BLANK_LINE):
        html = html.replace(stand_in, "")
    for joiner, stand_in in JOINERS.items():
        html = html.replace(joiner, stand_in)
    return html


def unguard(text: str) -> str:
    """The text with the joiners and empty lines that stand-ins stood for."""
    for joiner, stand_in in JOINERS.items():
        text = text.replace(stand_in, joiner)
    return text.replace(BLANK_LINE, "")


def _formula(found: re.Match[str]) -> str:
    attributes, content = found[1], found[2]
    annotation = ANNOTATION.search(content)
    told = re.search(r"alttext=(?:\"([^\"]*)\"|'([^']*)')", attributes)
    if annotation is None and told is None:
        return TAG.sub("", ANY_ANNOTATION.sub("", content))
    tex = annotation[1] if annotation else told[1] or told[2] if told else ""
    return _tex(entities.unescape(tex), alone=bool(re.search(r"display=[\"']?block", attributes)))


def _image(found: re.Match[str]) -> str:
    tag = found[0]
    alt = ALT.search(tag)
    text = entities.unescape(alt[1] or alt[2] or "").strip() if alt else ""
    if text and MATH_IMAGE.search(tag):
        return _tex(text, alone=False)
    if text and len(text) <= MOST_EMOJI_CHARACTERS and not text.isascii() and EMOJI_IMAGE.search(tag):
        return entities.escape(text)
    return tag


def _tex(tex: str, *, alone: bool) -> str:
    opened, closed = ("\\[", "\\]") if alone else ("\\(", "\\)")
    return entities.escape(f"{opened}{' '.join(tex.split())}{closed}", quote=False)


def _without_doubles(html: str) -> str:
    """The page without the second form of each formula that KaTeX writes for the eye alone."""
    pieces, position = [], 0
    for found in SHOWN_TWICE.finditer(html):
        if found.start() < position:
            continue
        pieces.append(html[position : found.start()])
        position = _end_of_span(html, found.end())
    return "".join([*pieces, html[position:]])


def _end_of_span(html: str, position: int) -> int:
    """Where the span ends whose opening tag ends at `position`."""
    depth = 1
    for tag in SPAN_TAG.finditer(html, position):
        depth += -1 if tag[1] else 1
        if not depth:
            return tag.end()
    return len(html)
