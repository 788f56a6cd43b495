"""Checksums behind blocks of bytes: any range is checked, and a changed byte is found wherever it is."""

from __future__ import annotations

import random

import pytest
from longhaul_corpus.domain.sealing import BLOCK_BYTES, BlockChanged, sums_of, unseal, unsealed_size


def seal(data: bytes) -> bytes:
    return data + sums_of(memoryview(data))


def reading(sealed: bytes, start: int, length: int) -> memoryview:
    return unseal(lambda offset, size: sealed[offset : offset + size], len(sealed), start, length)


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 17])
def test_any_range_of_sealed_bytes_is_read_back(size: int) -> None:
    data = random.Random(size).randbytes(size)
    sealed = seal(data)

    assert unsealed_size(len(sealed)) == size
    for start, length in ((0, size), (0, 5), (size // 2, BLOCK_BYTES), (max(0, size - 3), 10), (size, 4)):
        assert reading(sealed, start, length) == data[start : start + length]


@pytest.mark.parametrize("place", [0, BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 5, -1])
def test_changed_byte_is_found_by_the_block_it_is_in(place: int) -> None:
    sealed = bytearray(seal(bytes(2 * BLOCK_BYTES + 9)))
    sealed[place] ^= 1

    with pytest.raises(BlockChanged) as found:
        reading(bytes(sealed), 0, 2 * BLOCK_BYTES + 9)
    assert found.value.args[0] == (2 if place in (-1, 2 * BLOCK_BYTES + 5) else place // BLOCK_BYTES)
    if place >= BLOCK_BYTES:
        assert reading(bytes(sealed), 0, 10) == bytes(10)
