"""Bytes with a checksum for each block behind them, so that any range of them can be checked when it is read."""

from collections.abc import Callable

import xxhash

BLOCK_BYTES = 1 << 20
_SUM_BYTES = 8

ReadRange = Callable[[int, int], bytes]
"""From offset and length to the bytes."""


class BlockChanged(Exception):  # noqa: N818  (told to the caller, who knows which object it was)
    """A block is not as it was sealed; the argument is its number."""


def sums_of(data: memoryview) -> bytes:
    """What goes behind the data: 8 bytes for each block of it."""
    return b"".join(_sum(data[start : start + BLOCK_BYTES]) for start in range(0, len(data), BLOCK_BYTES))


def unsealed_size(size: int) -> int:
    """Bytes of data in `size` sealed bytes."""
    return size - _SUM_BYTES * -(-size // (BLOCK_BYTES + _SUM_BYTES))


def unseal(read: ReadRange, size: int, start: int, length: int) -> memoryview:
    """Bytes [start, start + length) of the data, as far as there are, out of `size` sealed bytes.

    Raises:
        BlockChanged: what was read is not what was sealed.
    """
    whole = unsealed_size(size)
    end = min(start + length, whole)
    if start >= end:
        return memoryview(b"")
    first, last = start // BLOCK_BYTES, -(-end // BLOCK_BYTES)
    begin = first * BLOCK_BYTES
    data = memoryview(read(begin, min(last * BLOCK_BYTES, whole) - begin))
    sums = read(whole + first * _SUM_BYTES, (last - first) * _SUM_BYTES)
    for number in range(last - first):
        block = data[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES]
        if _sum(block) != sums[number * _SUM_BYTES : (number + 1) * _SUM_BYTES]:
            raise BlockChanged(first + number)
    return data[start - begin : end - begin]


def _sum(block: memoryview) -> bytes:
    return xxhash.xxh3_64_digest(block)
