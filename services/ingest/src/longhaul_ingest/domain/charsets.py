"""From bytes to text: byte order mark, what the transport declared, what the page declares, then detection.

Declared charsets are believed as far as the bytes allow. Two corrections, both because valid multi-byte UTF-8 hardly
ever arises by chance: bytes that are UTF-8 but declared as a single-byte charset are read as UTF-8, and a declared
charset that cannot decode the bytes is passed over.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
META: Final = re.compile(rb"""<meta[^>]{0,400}?charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]{2,40})""", re.IGNORECASE)
META_BYTES: Final = 4096
SINGLE_BYTE: Final = frozenset({"ascii", "iso8859-1", "cp1252", "iso8859-15"})
SUPERSETS: Final = {"shift_jis": "cp932", "gb2312": "gb18030", "gbk": "gb18030", "euc_kr": "cp949"}
"""What pages mean by these names, as the HTML standard has it."""
CONTROLS: Final = frozenset(range(32)) - frozenset(b"\t\n\r\f\x0b\x1b\x08")
BINARY_PROBE_BYTES: Final = 65536
MAXIMUM_CONTROL_FRACTION: Final = 0.02


@dataclass(frozen=True, slots=True)
class Decoded:
    """A text and the charset that it was read with."""

    text: str
    charset: str


def decode(body: bytes, declared: str | None = None, *, html: bool = False) -> Decoded | None:
    """Decode `body`; None where no charset fits (it is no text).

    Args:
        body: The bytes.
        declared: The charset of the transport (HTTP header), if any.
        html: Whether to look for a declaration inside.
    """
    for mark, charset in MARKS:
        if body.startswith(mark):
            return _try(body[len(mark) :], charset)
    for charset in _candidates(body, declared, html):
        decoded = _try(body, charset)
        if decoded is not None:
            return decoded
    return None


def is_binary(body: bytes, declared: str | None = None) -> bool:
    """Whether the bytes are no text in any charset: NUL or many control characters, and no UTF-16 or UTF-32."""
    if any(body.startswith(mark) for mark, _ in MARKS) or (declared or "").lower().startswith(("utf-16", "utf-32")):
        return False
    probe = body[:BINARY_PROBE_BYTES]
    if b"\0" in probe:
        return True
    controls = len(probe) - len(probe.translate(None, bytes(CONTROLS)))
    return controls > MAXIMUM_CONTROL_FRACTION * len(probe)


def _candidates(body: bytes, declared: str | None, html: bool) -> Iterator[str]:
    names = [declared] if declared else []
    if html and (found := META.search(body[:META_BYTES])):
        names.append(found.group(1).decode("ascii"))
    for name in names:
        charset = _known(name)
        if charset in SINGLE_BYTE:
            yield "utf-8"  # strict: only where the bytes are UTF-8 after all
            yield "cp1252"  # as the HTML standard reads ASCII and Latin-1
        if charset is not None:
            yield charset
    yield "utf-8"
    detected = detect_encoding(body)
    if detected and (charset := _known(detected)) is not None:
        yield charset
    yield "cp1252"


def _known(name: str) -> str | None:
    mapped = map_encoding_to_html5(name.strip().lower(), fallback_utf8=False) or name.strip()
    try:
        name = codecs.lookup(mapped).name
        return SUPERSETS.get(name, name)
    except LookupError:
        return None


def _try(body: bytes, charset: str) -> Decoded | None:
    try:
        return Decoded(body.decode(charset), charset)
    except (UnicodeDecodeError, LookupError):
        return None
