"""Gradient norm and scaling on the local shards, one fused pass each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

_NORM_EPSILON = 1e-6


def local_gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    """This rank's shard of each gradient that there is; empty shards are left out."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    local = [grad.to_local() if isinstance(grad, DTensor) else grad for grad in gradients]
    return [grad for grad in local if grad.numel()]


def squared_norm(gradients: Sequence[Tensor]) -> float:
    """Sum of squares over the local shards; to be summed over the ranks."""
    if not gradients:
        return 0.0
    norms = torch.stack(torch._foreach_norm(list(gradients))).double()
    return float(norms.square().sum())


def clip_factor(norm: float, limit: float) -> float:
    """What to multiply gradients of this norm with, so that it does not exceed the limit."""
    return min(1.0, limit / (norm + _NORM_EPSILON))


def scale(gradients: Sequence[Tensor], factor: float) -> None:
    """Multiplies the local shards in place."""
    if gradients:
        torch._foreach_mul_(list(gradients), factor)
