"""Initial values that depend on nothing but the seed, the parameter's name and the element's global index.

Each element has its own counter in a Philox stream keyed by (seed, name), so that any rank can fill any slice of rows
without making the rest, and every layout starts from bit-equal values. Cost: about 40 ns an element on one core.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from blake3 import blake3
from longhaul_core.recipe import Initialisation
from numpy.typing import NDArray
from torch import Tensor, nn

from longhaul_trainer.model.shape import DecoderShape
from longhaul_trainer.parallel.slices import Box, local_box

_WORDS_PER_COUNTER = 4
_CHUNK_ELEMENTS = 1 << 22
_RESIDUAL = ("o_proj", "down_proj", "out_proj")
_T_FIXUP_SCALED = ("v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens", "embed_positions")


def normal_range(seed: int, name: str, start: int, count: int) -> NDArray[np.float32]:
    """Standard normal values of elements start .. start + count of one parameter (Box and Muller 1958)."""
    key = np.frombuffer(blake3(f"{seed}/{name}".encode()).digest(16), dtype=np.uint64)
    stream = np.random.Philox(key=key)
    stream.advance(start // _WORDS_PER_COUNTER)
    skip = start % _WORDS_PER_COUNTER
    words = np.asarray(stream.random_raw(skip + count), dtype=np.uint64)[skip:]
    radius = ((words >> np.uint64(32)).astype(np.float64) + 1.0) * 2.0**-32
    angle = (words & np.uint64(0xFFFFFFFF)).astype(np.float64) * (2.0 * math.pi * 2.0**-32)
    normal: NDArray[np.float64] = np.sqrt(-2.0 * np.log(radius)) * np.cos(angle)
    return normal.astype(np.float32)


@torch.no_grad()
def initialise(model: nn.Module, seed: int, shape: DecoderShape) -> None:
    """Fills every parameter, whole or sharded: matrices at random, vectors by what they are."""
    for name, parameter in model.named_parameters():
        box = local_box(parameter)
        if parameter.dim() < 2:
            _fill_vector(name, box)
        else:
            _fill_matrix(
                name, box, tuple(parameter.shape), seed, standard_deviation(name, tuple(parameter.shape), shape)
            )


def standard_deviation(name: str, size: tuple[int, ...], shape: DecoderShape) -> float:
    """Of one matrix's initial values."""
    module = name.removesuffix(".weight").rsplit(".", 1)[-1]
    if module == "conv1d":
        return math.sqrt(1.0 / (3.0 * size[-1]))
    if shape.init is Initialisation.T_FIXUP:
        return _t_fixup(module, size, shape)
    if shape.init is Initialisation.DEPTH_SCALED and module in _RESIDUAL:
        return shape.init_std / math.sqrt(2.0 * shape.layers)
    return shape.init_std


def _t_fixup(module: str, size: tuple[int, ...], shape: DecoderShape) -> float:
    """Xavier values, those of values and feed-forward scaled by 0.67·L^(-1/4) (Huang et al. 2020, encoder layers)."""
    embeds = module.startswith("embed_")
    base = shape.hidden_size**-0.5 if embeds else math.sqrt(2.0 / (size[-1] + size[-2]))
    return base * (0.67 * shape.layers**-0.25 if module in _T_FIXUP_SCALED else 1.0)


def _fill_vector(name: str, box: Box) -> None:
    """Gains, state-space skips and steps are one, A is 1, 2, …, biases are zero."""
    kind = name.rsplit(".", 1)[-1]
    if kind == "A_log":
        first = box.offsets[0] + 1
        box.local.copy_(torch.arange(first, first + len(box.local)).float().log())
    else:
        box.local.fill_(0.0 if kind == "bias" else 1.0)


def _fill_matrix(name: str, box: Box, size: tuple[int, ...], seed: int, std: float) -> None:
    """Makes whole rows (along the first dimension) a chunk at a time and keeps the part that is held here."""
    if box.local.numel() == 0:
        return
    row = math.prod(size[1:])
    inner = tuple(slice(o, o + n) for o, n in zip(box.offsets[1:], box.local.shape[1:], strict=True))
    at_once = max(1, _CHUNK_ELEMENTS // row)
    for begin in range(0, len(box.local), at_once):
        part = box.local[begin : begin + at_once]
        values = normal_range(seed, name, (box.offsets[0] + begin) * row, len(part) * row)
        whole: Tensor = torch.from_numpy(values).mul_(std).view(len(part), *size[1:])
        part.copy_(whole[(slice(None), *inner)])
