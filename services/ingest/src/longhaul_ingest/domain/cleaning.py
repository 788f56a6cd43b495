"""Last touch on a text, the same for every source: line ends, invisible damage, empty space. Code keeps its indent."""

from __future__ import annotations

import re
from typing import Final

LINE_ENDS: Final = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
UNWANTED: Final = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\ufeff\ufffe\uffff\ud800-\udfff]")
TRAILING: Final = re.compile(r"[ \t\xa0]+$", re.MULTILINE)
EMPTY_LINES: Final = re.compile(r"\n{3,}")


def clean_text(text: str) -> str:
    """One kind of line end, no control characters or half surrogate pairs, at most one empty line in a row."""
    text = UNWANTED.sub("", LINE_ENDS.sub("\n", text))
    return EMPTY_LINES.sub("\n\n", TRAILING.sub("", text)).strip("\n").rstrip()
