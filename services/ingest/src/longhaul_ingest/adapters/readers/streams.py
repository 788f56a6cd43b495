"""Files as streams of decompressed bytes, whatever they are compressed by; damage ends a stream and is told apart."""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import zstandard

from longhaul_ingest.adapters.readers.zstd_frames import read_frames

READ_BYTES: Final = 1 << 20
GZIP_WINDOW: Final = 31
DAMAGE: Final = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
"""What decompression raises; bz2 raises OSError, which `read_chunks` turns into EOFError."""


class _Decompressor(Protocol):
    eof: bool
    unused_data: bytes

    def decompress(self, data: bytes) -> bytes:
        """The next bytes."""
        ...


def read_chunks(path: Path, name: str) -> Iterator[bytes]:
    """The bytes of a file, decompressed by the ending of `name`.

    Raises:
        EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError: the compressed data is damaged or cut off.
    """
    name = name.lower()
    with path.open("rb") as file:
        if name.endswith(".zst"):
            yield from read_frames(file)
        elif name.endswith(".gz"):
            yield from _members(file, lambda: zlib.decompressobj(GZIP_WINDOW))
        elif name.endswith(".bz2"):
            yield from _members(file, bz2.BZ2Decompressor)
        elif name.endswith(".xz"):
            yield from _members(file, lzma.LZMADecompressor)
        else:
            while block := file.read(READ_BYTES):
                yield block


def read_whole(path: Path, name: str, limit: int) -> bytes:
    """All decompressed bytes of a file. Raises as `read_chunks`, and ValueError above `limit` bytes."""
    buffer = io.BytesIO()
    for chunk in read_chunks(path, name):
        buffer.write(chunk)
        if buffer.tell() > limit:
            raise ValueError(f"more than {limit} bytes")
    return buffer.getvalue()


def _members(file: BinaryIO, make: Callable[[], Any]) -> Iterator[bytes]:
    """Decompress members or streams one after another; zero bytes between them are padding."""
    decompressor: _Decompressor | None = None
    while block := file.read(READ_BYTES):
        while block:
            if decompressor is None:
                block = block.lstrip(b"\0")
                if not block:
                    break
                decompressor = make()
            try:
                yield decompressor.decompress(block)
            except OSError as error:  # how bz2 names damage
                raise EOFError(str(error)) from error
            block = decompressor.unused_data if decompressor.eof else b""
            if decompressor.eof:
                decompressor = None
    if decompressor is not None:
        raise EOFError("the file ends inside its compressed data")
