"""A part of a checkpoint as it lies in the store: the bytes of a safetensors file, laid out once, filled at each save.

Tensors are copied from the device straight into their place in the file's image, so that nothing is serialised later.
Global shape and first element of each box stand in the file's metadata under ``longhaul.slices``.
"""

from __future__ import annotations

import json
import math
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from longhaul_core.digests import hash_bytes
from longhaul_core.errors import DataLoss
from torch import Tensor

from longhaul_trainer.checkpoint.slices import TensorSlice

SLICES_KEY = "longhaul.slices"
_ALIGNMENT = 64
_SAMPLED_ELEMENTS = 4096
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
}
_KINDS = {name: kind for kind, name in _DTYPES.items()}


class PartImage:
    """Host memory that holds one part; pinned where the tensors live on a GPU."""

    def __init__(self, name: str, slices: Sequence[TensorSlice]) -> None:
        self.name = name
        ordered = sorted(
            (part for part in slices if part.saved), key=lambda part: (-part.local.element_size(), part.name)
        )
        header, offsets, size = _layout(ordered)
        pinned = any(part.local.is_cuda for part in ordered)
        self._image = torch.empty(len(header) + size, dtype=torch.uint8, pin_memory=pinned)
        self._image[: len(header)] = torch.frombuffer(bytearray(header), dtype=torch.uint8)
        self._names = [part.name for part in ordered]
        self._sources = [part.local for part in ordered]
        self._places = [
            self._image[len(header) + begin : len(header) + end].view(part.local.dtype).view(part.local.shape)
            for part, (begin, end) in zip(ordered, offsets, strict=True)
        ]

    def fill(self) -> None:
        """Copies the tensors' present values; returns when they have arrived."""
        for place, source in zip(self._places, self._sources, strict=True):
            place.copy_(source, non_blocking=True)
        if any(source.is_cuda for source in self._sources):
            torch.cuda.current_stream().synchronize()

    def samples(self) -> dict[str, str]:
        """Digest of some elements of each tensor as it was filled in, spread over all of it."""
        return {name: _sample(place) for name, place in zip(self._names, self._places, strict=True)}

    @property
    def data(self) -> memoryview:
        """The file's bytes."""
        return self._image.numpy().data


@dataclass(frozen=True, slots=True)
class StoredSlice:
    """A box of a tensor as read from a part."""

    name: str
    values: Tensor
    shape: tuple[int, ...]
    offsets: tuple[int, ...]


def parse_part(key: str, data: bytes) -> list[StoredSlice]:
    """Tensors of a part whose digest was verified, as views of its bytes: they are to be copied, not changed.

    Raises:
        DataLoss: it is no safetensors file of ours (PART_MALFORMED).
    """
    try:
        length = struct.unpack_from("<Q", data)[0]
        header = json.loads(data[8 : 8 + length])
        described = json.loads(header["__metadata__"][SLICES_KEY])
        return [
            StoredSlice(name, _view(data, 8 + length, header[name]), tuple(entry["shape"]), tuple(entry["offsets"]))
            for name, entry in described.items()
        ]
    except (struct.error, KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise DataLoss(
            f"Checkpoint part {key} is not a file of tensor shards: {error}",
            reason="PART_MALFORMED",
            metadata={"key": key},
            action="resume from an earlier checkpoint",
        ) from error


def _view(data: bytes, base: int, entry: dict[str, Any]) -> Tensor:
    """One tensor of a safetensors file, without a copy; raises ValueError where it does not lie inside the file."""
    (begin, end), shape = entry["data_offsets"], entry["shape"]
    kind = _KINDS[entry["dtype"]]
    count = math.prod(shape)
    if not 0 <= begin <= end <= len(data) - base or end - begin != count * kind.itemsize or min(shape, default=0) < 0:
        raise ValueError(f"a tensor of the shape {shape} does not lie at {begin} to {end}")
    if count == 0:
        return torch.empty(shape, dtype=kind)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(data, dtype=kind, count=count, offset=base + begin).view(shape)


def _sample(place: Tensor) -> str:
    flat = place.flatten()
    taken = flat[:: max(1, len(flat) // _SAMPLED_ELEMENTS)].contiguous()
    return hash_bytes(taken.view(torch.uint8).numpy().data) if len(taken) else ""


def _layout(slices: Sequence[TensorSlice]) -> tuple[bytes, list[tuple[int, int]], int]:
    described = {part.name: {"shape": list(part.shape), "offsets": list(part.offsets)} for part in slices}
    header: dict[str, object] = {"__metadata__": {SLICES_KEY: json.dumps(described)}}
    offsets, end = [], 0
    for part in slices:
        begin, end = end, end + part.local.numel() * part.local.element_size()
        offsets.append((begin, end))
        header[part.name] = {
            "dtype": _DTYPES[part.local.dtype],
            "shape": list(part.local.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    padded = text + b" " * (-(len(text) + 8) % _ALIGNMENT)
    return struct.pack("<Q", len(padded)) + padded, offsets, end
