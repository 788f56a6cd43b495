"""Members of a gzip file, one after another, going on at the next whole member where one is damaged."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from mmap import mmap
from typing import Final

MAGIC: Final = b"\x1f\x8b\x08"
FEED_BYTES: Final = 1 << 20
CHUNK_BYTES: Final = 16 << 20
PROBE_BYTES: Final = 4096
GZIP_WINDOW: Final = 31

Accept = Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Decompressed bytes of the member that begins at `offset`; `last` closes a whole member."""

    offset: int
    data: bytes
    last: bool


@dataclass(frozen=True, slots=True)
class Broken:
    """The member at `offset` cannot be decompressed any further."""

    offset: int
    problem: str


def read_members(view: mmap | bytes, start: int, end: int, accept: Accept) -> Iterator[Chunk | Broken]:
    """Decompress the members that begin in [start, end), in chunks.

    Args:
        view: The file.
        start: Where to begin; the first member at or after it counts.
        end: Members that begin here or later are left to others.
        accept: Whether the first decompressed bytes look like the beginning of a member of this format.
    """
    position = start if start == 0 else find_member(view, start, accept)
    while position is not None and position < min(end, len(view)):
        after = None
        for found in _read_member(view, position):
            if isinstance(found, int):
                after = found
            else:
                yield found
        position = after if after is not None else find_member(view, position + 1, accept)


def find_member(view: mmap | bytes, start: int, accept: Accept) -> int | None:
    """The position of the first acceptable member at or after `start`."""
    position = view.find(MAGIC, start)
    while position >= 0:
        try:
            head = zlib.decompressobj(GZIP_WINDOW).decompress(view[position : position + PROBE_BYTES], PROBE_BYTES)
        except zlib.error:
            head = b""
        if head and accept(head):
            return position
        position = view.find(MAGIC, position + 1)
    return None


def _read_member(view: mmap | bytes, start: int) -> Iterator[Chunk | Broken | int]:
    """Yield the chunks of one member, then where the next begins, or what is wrong."""
    decompressor = zlib.decompressobj(GZIP_WINDOW)
    position = start
    while True:
        block = view[position : position + FEED_BYTES]
        try:
            data = decompressor.decompress(block, CHUNK_BYTES)
        except zlib.error as error:
            yield Broken(start, f"damaged gzip member ({error})")
            return
        position += len(block) - len(decompressor.unused_data) - len(decompressor.unconsumed_tail)
        if decompressor.eof:
            yield Chunk(start, data, last=True)
            yield _skip_padding(view, position)
            return
        if not block and not data:
            yield Broken(start, "truncated gzip member (the file ends inside it)")
            return
        yield Chunk(start, data, last=False)


def _skip_padding(view: mmap | bytes, position: int) -> int:
    while position < len(view) and view[position : position + 1] == b"\0":
        position += 1
    return position
