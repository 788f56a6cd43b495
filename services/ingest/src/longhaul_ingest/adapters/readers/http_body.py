"""Bodies of recorded HTTP responses: chunks put together, content codings undone."""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import Final

import zstandard
from fastwarc.stream_io import BrotliReader, ChunkedReader

from longhaul_ingest.adapters.readers.zstd_frames import read_frames

GZIP_OR_ZLIB_WINDOW: Final = 47
RAW_DEFLATE_WINDOW: Final = -15
GZIP_MAGIC: Final = b"\x1f\x8b"


class BodyError(ValueError):
    """A body that its headers do not describe."""


def decode_body(body: bytes, transfer_encoding: str | None, content_encoding: str | None, limit: int) -> bytes:
    """The body as the page's author wrote it.

    Recorders may have undone a coding and kept its header; such a body is taken as it is.

    Raises:
        BodyError: a coding is unknown or the body is damaged, or longer than `limit` bytes.
    """
    try:
        if (transfer_encoding or "").strip().lower() == "chunked" and _is_chunked(body):
            body = ChunkedReader(BytesIO(body)).read(limit + 1)
        for coding in reversed((content_encoding or "").lower().split(",")):
            body = _undo(coding.strip(), body, limit)
    except (OSError, zlib.error, zstandard.ZstdError) as error:
        raise BodyError(f"{content_encoding or transfer_encoding}: {error}") from error
    if len(body) > limit:
        raise BodyError(f"more than {limit} bytes")
    return body


def _undo(coding: str, body: bytes, limit: int) -> bytes:
    if coding in ("", "identity") or not body:
        return body
    if coding in ("gzip", "x-gzip"):
        return _inflate(body, GZIP_OR_ZLIB_WINDOW, limit) if body.startswith(GZIP_MAGIC) else body
    if coding == "deflate":
        window = GZIP_OR_ZLIB_WINDOW if body[0] & 0x0F == zlib.DEFLATED else RAW_DEFLATE_WINDOW
        return _inflate(body, window, limit)
    if coding == "br":
        return BrotliReader(BytesIO(body)).read(limit + 1)
    if coding == "zstd":
        return b"".join(read_frames(BytesIO(body)))
    raise BodyError(f"unknown content coding {coding!r}")


def _inflate(body: bytes, window: int, limit: int) -> bytes:
    decompressor = zlib.decompressobj(window)
    data = decompressor.decompress(body, limit + 1)
    if not decompressor.eof and len(data) <= limit:
        raise zlib.error("the body ends inside its compressed data")
    return data


def _is_chunked(body: bytes) -> bool:
    size = body[:20].split(b"\r\n")[0].split(b";")[0].strip()
    return bool(size) and all(digit in b"0123456789abcdefABCDEF" for digit in size)
