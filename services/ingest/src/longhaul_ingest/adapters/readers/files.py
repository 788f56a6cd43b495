"""Files that are one document each: HTML, text, Markdown, source code, EPUB, PDF; plain or compressed."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from longhaul_core.recipe import SourceKind

from longhaul_ingest.adapters.readers.damage import Damage, Found
from longhaul_ingest.adapters.readers.streams import DAMAGE, read_whole
from longhaul_ingest.domain.documents import Media, Page, failed
from longhaul_ingest.domain.languages import language_of
from longhaul_ingest.domain.planning import Piece

MAXIMUM_FILE_BYTES: Final = 512 << 20
"""Of decompressed text in one file: it is one document, and held in memory."""
MEDIA: Final = {
    SourceKind.HTML: Media.HTML,
    SourceKind.TEXT: Media.TEXT,
    SourceKind.CODE: Media.CODE,
    SourceKind.MARKDOWN: Media.MARKDOWN,
    SourceKind.EPUB: Media.EPUB,
    SourceKind.PDF: Media.PDF,
}


def read_file(path: Path, piece: Piece, kind: SourceKind) -> list[Found]:
    """The one document of a file, with damage where there is any."""
    if piece.size > MAXIMUM_FILE_BYTES:
        return [failed(piece.label, "too_large", f"more than {MAXIMUM_FILE_BYTES} bytes in one document")]
    try:
        body = read_whole(path, piece.label, MAXIMUM_FILE_BYTES)
    except OSError as error:
        return [failed(piece.label, "unreadable_file", error.strerror or str(error))]
    except ValueError as error:
        return [failed(piece.label, "too_large", str(error))]
    except DAMAGE as error:
        damage = Damage(piece.label, 0, f"damaged compressed file ({error})")
        return [damage, failed(piece.label, "damaged_archive", str(error)[:300])]
    extra = {"file": piece.label}
    if kind is SourceKind.CODE:
        extra["programming_language"] = language_of(piece.label)
    return [Page(piece.label, body, MEDIA[kind], None, extra)]
