"""Activation checkpointing: memory for a second forward pass of a block."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from longhaul_core.recipe import Recomputation
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from longhaul_trainer.model import Decoder
from longhaul_trainer.model.linear import MULTIPLY

_KEPT = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    MULTIPLY,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
}
"""Results of the costly operations; selective recomputation keeps them and makes only the cheap ones again."""


def recompute_blocks(model: Decoder, kind: Recomputation) -> None:
    """Wraps each block's forward pass."""
    if kind is Recomputation.NONE:
        return
    for block in model.layers.values():
        block.forward = _recomputed(block.forward, kind)


def _recomputed(forward: Callable[..., Any], kind: Recomputation) -> Callable[..., Any]:
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": True}
    if kind is Recomputation.SELECTIVE:
        options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _policy)

    @functools.wraps(forward)
    def run(*arguments: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments)
        return checkpoint(forward, *arguments, **options)

    return run


def _policy(_: Any, operation: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE
