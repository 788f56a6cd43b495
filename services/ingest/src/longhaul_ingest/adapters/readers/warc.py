"""WARC and WET files. HTTP status, MIME type and declared charset are honoured; damaged members are read around.

FastWARC parses the records. It is given one gzip member at a time, because on a whole file it stops for good at the
first damage, and because members make byte ranges of one file readable by several workers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from io import BytesIO
from mmap import mmap
from pathlib import Path
from typing import IO, Final

from fastwarc import ArchiveIterator, WarcRecord, WarcRecordType

from longhaul_ingest.adapters.readers.damage import Damage, Found
from longhaul_ingest.adapters.readers.gzip_members import MAGIC, Broken, read_members
from longhaul_ingest.adapters.readers.http_body import BodyError, decode_body
from longhaul_ingest.adapters.readers.streams import DAMAGE, read_chunks
from longhaul_ingest.domain.documents import Media, Page, Record, dropped, failed
from longhaul_ingest.domain.media import media_of
from longhaul_ingest.domain.planning import Piece

VERSION: Final = b"WARC/"
BOUNDARY: Final = b"\r\n\r\nWARC/1."
SPOOL_BYTES: Final = 64 << 20
"""Decompressed members larger than this go to a temporary file."""
WANTED: Final = WarcRecordType.response | WarcRecordType.resource | WarcRecordType.conversion | WarcRecordType.revisit
OK: Final = 200
MAXIMUM_BODY_BYTES: Final = 64 << 20
"""Longer bodies are no pages; it bounds what one record can take of a worker's memory."""


def read_warc(view: mmap | bytes, piece: Piece) -> Iterator[Found]:
    """The records of a WARC or WET file that begin in the piece."""
    if view[:3] == MAGIC:
        yield from _read_compressed(view, piece)
    else:
        yield from _read_plain(view, piece)


def read_unpacked(path: Path, piece: Piece) -> Iterator[Found]:
    """The records of an archive compressed as a whole; damage ends it after the last whole record before."""
    with tempfile.TemporaryFile() as unpacked:
        problem = ""
        try:
            for chunk in read_chunks(path, piece.label):
                unpacked.write(chunk)
        except DAMAGE as error:
            problem = f"damaged compressed data after {unpacked.tell()} bytes of records ({error})"
        unpacked.flush()
        size = unpacked.tell()
        with mmap(unpacked.fileno(), 0) if size else nullcontext(b"") as view:
            end = max(view.rfind(BOUNDARY) + 4, 0) if problem else size
            yield from _read_plain(view, Piece(piece.path, piece.label, 0, end, piece.version))
        if problem:
            yield Damage(piece.label, size, problem)
            yield failed(f"{piece.label}#{size}", "damaged_archive", problem[:300])


def _read_compressed(view: mmap | bytes, piece: Piece) -> Iterator[Found]:
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as member:
        for found in read_members(view, piece.start, piece.end, lambda head: head.startswith(VERSION)):
            if isinstance(found, Broken):
                yield Damage(piece.label, found.offset, found.problem)
                yield from _salvage(member, piece, found.offset)
                yield failed(f"{piece.label}#{found.offset}", "damaged_member", found.problem)
            else:
                member.write(found.data)
                if not found.last:
                    continue
                member.seek(0)
                yield from _parse(member, piece, found.offset)
            member.seek(0)
            member.truncate()


def _salvage(member: IO[bytes], piece: Piece, offset: int) -> Iterator[Found]:
    """The whole records before the damage, where one member holds several: all but the last that begins."""
    member.seek(0)
    data = member.read()
    last = data.rfind(BOUNDARY)
    if last > 0:
        yield from _parse(BytesIO(data[: last + 4]), piece, offset)


def _read_plain(view: mmap | bytes, piece: Piece) -> Iterator[Found]:
    start, end = _boundary(view, piece.start), _boundary(view, piece.end)
    if start < end:
        yield from _parse(BytesIO(view[start:end]), piece, start)


def _boundary(view: mmap | bytes, position: int) -> int:
    """The first record that begins at or after `position`."""
    if position == 0:
        return 0
    found = view.find(BOUNDARY, max(position - 4, 0))
    return found + 4 if found >= 0 else len(view)


def _parse(stream: IO[bytes], piece: Piece, offset: int) -> Iterator[Found]:
    try:
        for record in ArchiveIterator(stream, record_types=WANTED, strict_mode=False):
            yield _record(record, piece, offset)
    except BaseException as error:  # the parser's own panics are no Exceptions
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit | MemoryError):
            raise
        yield Damage(piece.label, offset, f"not a readable WARC record ({error})")
        yield failed(f"{piece.label}#{offset}", "damaged_record", str(error)[:300])


def _record(record: WarcRecord, piece: Piece, offset: int) -> Record:
    url = record.headers.get("WARC-Target-URI") or f"{piece.label}#{offset}"
    extra = {"file": piece.label, "offset": str(offset)}
    date = record.headers.get("WARC-Date")
    if date:
        extra["date"] = date
    kind = record.record_type
    if kind == WarcRecordType.revisit:
        return dropped(url, "revisit", "the record refers to an earlier one")
    if kind == WarcRecordType.conversion:
        return Page(url, record.reader.read(), Media.TEXT, "utf-8", extra)
    if kind == WarcRecordType.resource:
        return _page(url, record, record.headers.get("Content-Type"), None, extra)
    if record.http_headers is None or record.http_headers.status_code is None:
        return failed(url, "invalid_http", "the response has no HTTP status")
    if record.http_headers.status_code != OK:
        return dropped(url, "http_status", str(record.http_headers.status_code))
    return _page(url, record, record.http_content_type, record.http_charset, extra)


def _page(url: str, record: WarcRecord, content_type: str | None, charset: str | None, extra: dict[str, str]) -> Record:
    headers = record.http_headers if record.is_http_parsed else None
    codings = (headers.get("Transfer-Encoding"), headers.get("Content-Encoding")) if headers else (None, None)
    try:
        body = decode_body(record.reader.read(MAXIMUM_BODY_BYTES + 1), *codings, MAXIMUM_BODY_BYTES)
    except BodyError as error:
        return failed(url, "damaged_body", str(error)[:300])
    media = media_of(content_type, body)
    if media is None:
        return dropped(url, "mime_type", content_type or "unknown")
    return Page(url, body, media, charset, extra)
