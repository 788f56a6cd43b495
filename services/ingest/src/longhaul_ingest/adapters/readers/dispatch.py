"""The right reader for each kind of source."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote_to_bytes

from longhaul_core.errors import FailedPrecondition, NotFound
from longhaul_core.recipe import SourceKind

from longhaul_ingest.adapters.readers.columns import read_parquet
from longhaul_ingest.adapters.readers.damage import Damage, Found
from longhaul_ingest.adapters.readers.files import MEDIA, read_file
from longhaul_ingest.adapters.readers.lines import Fields, read_json_lines
from longhaul_ingest.adapters.readers.tables import read_arrow, read_csv
from longhaul_ingest.adapters.readers.warc import read_unpacked, read_warc
from longhaul_ingest.adapters.remote import fetch, is_remote
from longhaul_ingest.domain.documents import failed
from longhaul_ingest.domain.planning import Piece, is_divisible


def read_piece(kind: SourceKind, piece: Piece, fields: Fields) -> Iterator[Found]:
    """All records that begin in a piece of a file.

    Raises:
        NotFound: the file is gone (SOURCE_NOT_FOUND).
        FailedPrecondition: the file is not as it was planned (SOURCE_CHANGED).
    """
    if is_remote(piece.path):
        path = fetch(piece.path, piece.version)
    else:
        path = local_path(piece.path)
        _check_unchanged(path, piece)
    if kind in MEDIA:
        yield from read_file(path, piece, kind)
        return
    try:
        if kind is SourceKind.PARQUET:
            yield from read_parquet(path, piece, fields)
            return
        if kind is SourceKind.CSV:
            yield from read_csv(path, piece, fields)
            return
        if kind is SourceKind.ARROW:
            yield from read_arrow(path, piece, fields)
            return
        if not is_divisible(kind, piece.label) and kind is not SourceKind.JSONL:
            yield from read_unpacked(path, piece)
            return
        with _mapped(path) as view:
            if kind is SourceKind.JSONL:
                yield from read_json_lines(path, view, piece, fields)
            else:
                yield from read_warc(view, piece)
    except OSError as error:
        yield Damage(piece.label, piece.start, f"cannot be read ({error.strerror or error})")
        yield failed(piece.label, "unreadable_file", error.strerror or str(error))


def _check_unchanged(path: Path, piece: Piece) -> None:
    try:
        version = str(path.stat().st_mtime_ns)
    except FileNotFoundError as error:
        raise NotFound(
            f"Source file {piece.label} is gone.",
            reason="SOURCE_NOT_FOUND",
            metadata={"path": show_path(path)},
            action="Put the file back and run again.",
        ) from error
    if piece.version and version != piece.version:
        raise FailedPrecondition(
            f"Source file {piece.label} was changed while it was read.",
            reason="SOURCE_CHANGED",
            metadata={"path": show_path(path)},
            action="Leave the sources alone until the ingestion has ended, and run again.",
        )


def show_path(path: Path) -> str:
    """A path as text that can be shown and stored, whatever its bytes are."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def local_path(encoded: str) -> Path:
    """The path that was percent-encoded for the plan; its bytes need not be UTF-8."""
    return Path(os.fsdecode(unquote_to_bytes(encoded)))


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            yield b""  # an empty file cannot be mapped
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            yield view
