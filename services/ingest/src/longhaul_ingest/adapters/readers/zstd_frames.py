"""Zstandard files as a stream; a file that ends inside a frame is an error, not a short file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Final

import zstandard

READ_BYTES: Final = 1 << 20
MAXIMUM_WINDOW_BYTES: Final = 1 << 31


def read_frames(file: BinaryIO) -> Iterator[bytes]:
    """Decompress all frames, in chunks. Raises zstandard.ZstdError where a frame is damaged or cut off."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAXIMUM_WINDOW_BYTES)
    frame = None
    while block := file.read(READ_BYTES):
        while block:
            frame = frame or decompressor.decompressobj()
            yield frame.decompress(block)
            block = frame.unused_data if frame.eof else b""
            if frame.eof:
                frame = None
    if frame is not None:
        raise zstandard.ZstdError("the file ends inside a frame")
