"""Files that are one document each: HTML, plain text, source code; plain or compressed."""

from __future__ import annotations

import gzip
import zlib
from io import BytesIO
from pathlib import Path
from typing import Final

import zstandard
from longhaul_core.recipe import SourceKind

from longhaul_ingest.adapters.readers.damage import Damage, Found
from longhaul_ingest.adapters.readers.zstd_frames import read_frames
from longhaul_ingest.domain.documents import Media, Page, failed
from longhaul_ingest.domain.languages import language_of
from longhaul_ingest.domain.planning import Piece

MAXIMUM_FILE_BYTES: Final = 512 << 20
"""Of decompressed text in one file: it is one document, and held in memory."""


def read_file(path: Path, piece: Piece, kind: SourceKind) -> list[Found]:
    """The one document of a file, with damage where there is any."""
    if piece.size > MAXIMUM_FILE_BYTES:
        return [failed(piece.label, "too_large", f"more than {MAXIMUM_FILE_BYTES} bytes in one document")]
    try:
        body = _decompress(piece.label, path.read_bytes())
    except OSError as error:
        return [failed(piece.label, "unreadable_file", error.strerror or str(error))]
    except (EOFError, zlib.error, zstandard.ZstdError) as error:
        damage = Damage(piece.label, 0, f"damaged compressed file ({error})")
        return [damage, failed(piece.label, "damaged_archive", str(error)[:300])]
    extra = {"file": piece.label}
    if kind is SourceKind.CODE:
        extra["programming_language"] = language_of(piece.label)
    return [Page(piece.label, body, Media.HTML if kind is SourceKind.HTML else Media.TEXT, None, extra)]


def _decompress(name: str, body: bytes) -> bytes:
    if name.lower().endswith(".gz"):
        return gzip.decompress(body)
    if name.lower().endswith(".zst"):
        return b"".join(read_frames(BytesIO(body)))
    return body
