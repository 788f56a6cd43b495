"""Attention inside documents by FlexAttention: blocks that the mask empties are not computed (GPUs)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from longhaul_trainer.model.mask import documents_of


@functools.cache
def _kernel(compiled: bool) -> Callable[..., Any]:
    """Compiled once a process; not compiled it computes the same with whole score matrices."""
    kernel: Any = torch.compile(flex_attention, dynamic=False) if compiled else flex_attention
    return kernel  # type: ignore[no-any-return]


def block_mask(positions: Tensor, window: int, columns: Tensor | None) -> BlockMask:
    """The mask of ``document_mask`` in blocks. positions: int64[B, S]; columns: int64[T]."""
    documents = documents_of(positions)
    batch, length = positions.shape
    asking = torch.arange(length, device=positions.device) if columns is None else columns

    def allowed(row: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
        place = asking[query]
        seen = (place >= key) & (documents[row, place] == documents[row, key])
        return seen & (place - key < window) if window else seen

    return create_block_mask(allowed, batch, None, len(asking), length, device=positions.device.type)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: BlockMask) -> Tensor:
    """Scaled dot products inside the mask. [B, H, T, D], with fewer heads in keys and values allowed."""
    grouped = queries.shape[1] != keys.shape[1]
    out: Tensor = _kernel(queries.is_cuda)(queries, keys, values, block_mask=mask, enable_gqa=grouped)
    return out
