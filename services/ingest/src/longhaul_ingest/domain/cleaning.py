"""Last touch on a text, the same for every source: line ends, invisible damage, empty space. Code keeps its indent."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

LINE_ENDS: Final = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
UNWANTED: Final = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\ufeff\ufffe\uffff\ud800-\udfff]")
TRAILING: Final = re.compile(r"[ \t\xa0]+$", re.MULTILINE)
EMPTY_LINES: Final = re.compile(r"\n{3,}")


def fix_text(text: str) -> str:
    """Mojibake and entities as the characters that were meant, in NFC; quotes and ligatures as their author wrote them.

    Text that is ASCII without an ampersand has neither and is passed on as it is.
    """
    if text.isascii() and "&" not in text:
        return text
    import ftfy

    return str(ftfy.fix_text(text, _fixes()))


@cache
def _fixes() -> Any:
    from ftfy import TextFixerConfig

    return TextFixerConfig(uncurl_quotes=False, fix_latin_ligatures=False, explain=False)


def clean_text(text: str) -> str:
    """One kind of line end, no control characters or half surrogate pairs, at most one empty line in a row."""
    text = UNWANTED.sub("", LINE_ENDS.sub("\n", text))
    return EMPTY_LINES.sub("\n\n", TRAILING.sub("", text)).strip("\n").rstrip()
