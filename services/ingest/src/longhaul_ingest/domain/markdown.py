"""Markdown is kept as it is written, tables, code and mathematics included; only what is no text is taken out."""

from __future__ import annotations

import re
from typing import Final

FRONT_MATTER: Final = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
TITLE: Final = re.compile(r"^title:\s*(.+?)\s*$", re.MULTILINE)
COMMENT: Final = re.compile(r"<!--.*?-->", re.DOTALL)


def markdown_text(source: str) -> tuple[str, dict[str, str]]:
    """The text without front matter and comments, and the title that the front matter gives."""
    about: dict[str, str] = {}
    if found := FRONT_MATTER.match(source):
        if title := TITLE.search(found.group(1)):
            about["title"] = title.group(1).strip("\"'")
        source = source[found.end() :]
    return COMMENT.sub("", source), about
