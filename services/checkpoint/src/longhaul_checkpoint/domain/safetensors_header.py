"""Sanity of a safetensors header, checked before anybody allocates memory for what it claims.

A file is an unsigned 64-bit little-endian length, that many bytes of JSON, then the tensors' bytes back to back. The
checks are those of the format's specification, with bounds on the header's size and on the number of tensors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from typing import Any, TypeGuard

LENGTH_BYTES = 8
MAXIMUM_HEADER_BYTES = 100 * 1024 * 1024
MAXIMUM_TENSORS = 1_000_000
MAXIMUM_DIMENSIONS = 16
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


class HeaderError(ValueError):
    """The header contradicts the format or the file's size."""


@dataclass(frozen=True, slots=True)
class HeaderSummary:
    """What a sane header says."""

    tensors: int
    data_bytes: int


def header_length(prefix: bytes, file_size: int) -> int:
    """Return the header's length from a file's first eight bytes.

    Raises:
        HeaderError: a file too short, or a length that is absurd for it.
    """
    if len(prefix) < LENGTH_BYTES:
        raise HeaderError(f"{len(prefix)} bytes are too few for a safetensors file")
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if length > MAXIMUM_HEADER_BYTES:
        raise HeaderError(f"the header claims {length} bytes; at most {MAXIMUM_HEADER_BYTES} are accepted")
    if LENGTH_BYTES + length > file_size:
        raise HeaderError(f"the header claims {length} bytes in a file of {file_size}")
    return length


def check_header(header: bytes, file_size: int) -> HeaderSummary:
    """Check the JSON header against the file's size.

    Raises:
        HeaderError: not JSON, unknown dtype, a shape that contradicts its offsets, gaps or overlaps.
    """
    data_bytes = file_size - LENGTH_BYTES - len(header)
    tensors = _parse(header)
    spans = sorted(_span(name, entry, data_bytes) for name, entry in tensors.items())
    position = 0
    for start, end, name in spans:
        if start != position:
            raise HeaderError(f"tensor {name!r} starts at byte {start}, the one before it ends at {position}")
        position = end
    if position != data_bytes:
        raise HeaderError(f"the tensors cover {position} of {data_bytes} bytes")
    return HeaderSummary(tensors=len(tensors), data_bytes=data_bytes)


def _parse(header: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"the header is no JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise HeaderError("the header is no JSON object")
    tensors = {name: entry for name, entry in parsed.items() if name != "__metadata__"}
    if len(tensors) > MAXIMUM_TENSORS:
        raise HeaderError(f"{len(tensors)} tensors are more than {MAXIMUM_TENSORS}")
    return tensors


def _span(name: str, entry: object, data_bytes: int) -> tuple[int, int, str]:
    if not isinstance(entry, dict):
        raise HeaderError(f"tensor {name!r} has no description")
    bits = _BITS.get(str(entry.get("dtype")))
    if bits is None:
        raise HeaderError(f"tensor {name!r} has the unknown dtype {entry.get('dtype')!r}")
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not _are_counts(shape) or len(shape) > MAXIMUM_DIMENSIONS:
        raise HeaderError(f"tensor {name!r} has the impossible shape {shape!r}")
    if not _are_counts(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= data_bytes:
        raise HeaderError(f"tensor {name!r} has the impossible offsets {offsets!r} in {data_bytes} bytes")
    start, end = offsets
    if prod(shape) * bits != (end - start) * 8:
        raise HeaderError(f"tensor {name!r} of shape {shape} and {entry['dtype']} does not fill {end - start} bytes")
    return start, end, name


def _are_counts(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
