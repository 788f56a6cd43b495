"""What the head of a part says: which boxes of which tensors lie in the file, and where. It is safetensors' own header.

Global shape and first element of each box stand in the file's metadata under ``longhaul.slices``.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import Any

import torch
from longhaul_core.errors import DataLoss

SLICES_KEY = "longhaul.slices"
LENGTH_BYTES = 8
LARGEST_HEADER_BYTES = 100_000_000
"""As safetensors bounds it."""

DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
}
_DTYPES = {name: kind for kind, name in DTYPE_NAMES.items()}


@dataclass(frozen=True, slots=True)
class StoredBox:
    """A box of a tensor in a part: ``sizes`` elements from ``offsets`` on of a tensor of the whole ``shape``.

    Its bytes lie from ``begin`` to ``end`` of the file, row after row.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    begin: int
    end: int


def header_length(key: str, prefix: bytes | bytearray, size: int) -> int:
    """Bytes of the header that follows the first eight.

    Raises:
        DataLoss: the file cannot hold so many (PART_MALFORMED).
    """
    length = int(struct.unpack("<Q", prefix)[0]) if len(prefix) == LENGTH_BYTES else size
    if length > min(size - LENGTH_BYTES, LARGEST_HEADER_BYTES):
        raise _malformed(key, f"its header would take {length} of {size} bytes")
    return length


def parse_header(key: str, text: bytes | bytearray, size: int) -> list[StoredBox]:
    """The boxes of a part of ``size`` bytes in the order in which they lie.

    Raises:
        DataLoss: it is no safetensors file of ours (PART_MALFORMED).
    """
    base = LENGTH_BYTES + len(text)
    try:
        header = json.loads(text)
        described = json.loads(header["__metadata__"][SLICES_KEY])
        found = sorted((_box(name, header[name], entry, base) for name, entry in described.items()), key=_place)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _malformed(key, str(error)) from error
    for box, after in zip(found, [box.begin for box in found[1:]] + [size], strict=False):
        if box.end > after:
            raise _malformed(key, f"{box.name} reaches into what follows it")
    return found


def _box(name: str, entry: dict[str, Any], described: dict[str, Any], base: int) -> StoredBox:
    """One box; raises ValueError where its numbers contradict each other."""
    begin, end = (int(place) for place in entry["data_offsets"])
    sizes, shape, offsets = (
        tuple(int(size) for size in row) for row in (entry["shape"], described["shape"], described["offsets"])
    )
    kind = _DTYPES[entry["dtype"]]
    fits = len(sizes) == len(shape) == len(offsets) and min((*sizes, *offsets), default=0) >= 0
    if not fits or any(o + n > whole for o, n, whole in zip(offsets, sizes, shape, strict=True)):
        raise ValueError(f"{name}: a box of {sizes} at {offsets} is none of a tensor of {shape}")
    if begin < 0 or end - begin != math.prod(sizes) * kind.itemsize:
        raise ValueError(f"{name}: a tensor of the shape {sizes} does not lie at {begin} to {end}")
    return StoredBox(name, kind, shape, offsets, sizes, base + begin, base + end)


def _place(box: StoredBox) -> tuple[int, int]:
    return box.begin, box.end


def _malformed(key: str, problem: str) -> DataLoss:
    return DataLoss(
        f"Checkpoint part {key} is not a file of tensor shards: {problem}",
        reason="PART_MALFORMED",
        metadata={"key": key},
        action="resume from an earlier checkpoint",
    )
