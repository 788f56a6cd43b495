"""A part of a checkpoint as it lies in the store: the bytes of a safetensors file, laid out once, filled at each save.

Tensors are copied from the device straight into their place in the file's image, so that nothing is serialised later.
Global shape and first element of each box stand in the file's metadata under ``longhaul.slices``.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence

import torch
from longhaul_core.digests import hash_bytes
from torch import Tensor

from longhaul_trainer.checkpoint.part_header import DTYPE_NAMES, SLICES_KEY
from longhaul_trainer.checkpoint.slices import TensorSlice

_ALIGNMENT = 64
_SAMPLED_ELEMENTS = 4096


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
            "dtype": DTYPE_NAMES[part.local.dtype],
            "shape": list(part.local.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    padded = text + b" " * (-(len(text) + 8) % _ALIGNMENT)
    return struct.pack("<Q", len(padded)) + padded, offsets, end
