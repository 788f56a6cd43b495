"""Normalisation of the residual stream: root mean square (Zhang and Sennrich 2019) or layer norm (Ba et al. 2016)."""

from __future__ import annotations

import torch
from longhaul_core.recipe import Norm
from torch import Tensor, nn
from torch.nn import functional

from longhaul_trainer.model.shape import DecoderShape


class RMSNorm(nn.Module):
    """Scales each vector to unit root mean square, then by a learned gain."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalises the last dimension. hidden: [B, T, C]."""
        return functional.rms_norm(hidden, self.weight.shape, self.weight, self.epsilon)


def make_norm(shape: DecoderShape, size: int) -> nn.Module:
    """The norm that the shape asks for, over so many channels."""
    if shape.norm is Norm.LAYERNORM:
        return nn.LayerNorm(size, shape.norm_epsilon)
    return RMSNorm(size, shape.norm_epsilon)
