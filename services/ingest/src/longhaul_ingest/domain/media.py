"""Which MIME types hold text that is worth reading."""

from __future__ import annotations

from typing import Final

from longhaul_ingest.domain.documents import Media

TYPES: Final = {
    "text/html": Media.HTML,
    "application/xhtml+xml": Media.HTML,
    "text/plain": Media.TEXT,
    "text/markdown": Media.TEXT,
    "text/x-rst": Media.TEXT,
}
UNKNOWN: Final = frozenset({"", "application/unknown", "unknown/unknown", "content/unknown"})
HTML_BEGINNINGS: Final = (b"<!doctype html", b"<html", b"<head", b"<body", b"<!--", b"<?xml")


def media_of(content_type: str | None, body: bytes) -> Media | None:
    """What a body is by its declared type, or by its first bytes where none is declared; None: not wanted."""
    declared = (content_type or "").split(";")[0].strip().lower()
    if declared not in UNKNOWN:
        return TYPES.get(declared)
    head = body[:512].lstrip().lower()
    return Media.HTML if head.startswith(HTML_BEGINNINGS) else None
