"""Rotary positions (Su et al. 2021), in the half-split layout that Llama checkpoints use."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

Rotation = tuple[Tensor, Tensor]


class RotaryTable(nn.Module):
    """Cosines and sines for every position; one look-up a step serves all layers."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, head_size: int, context_length: int, theta: float) -> None:
        super().__init__()
        self.theta = theta
        self.register_buffer("cosine", torch.empty(context_length, head_size), persistent=False)
        self.register_buffer("sine", torch.empty(context_length, head_size), persistent=False)
        self.fill()

    def fill(self) -> None:
        """Computes the table; called again after the module was moved from the meta device."""
        context_length, head_size = self.cosine.shape
        steps = torch.arange(0, head_size, 2, dtype=torch.int64, device=self.cosine.device).float()
        frequency = 1.0 / (self.theta ** (steps / head_size))
        angle = torch.outer(torch.arange(context_length, device=self.cosine.device).float(), frequency)
        angle = torch.cat((angle, angle), dim=-1)
        self.cosine.copy_(angle.cos())
        self.sine.copy_(angle.sin())

    def forward(self, positions: Tensor) -> Rotation:
        """Rows for positions: int64[B, T], each [B, 1, T, head_size]."""
        cosine = functional.embedding(positions, self.cosine)
        sine = functional.embedding(positions, self.sine)
        return cosine.unsqueeze(1), sine.unsqueeze(1)


def rotate(heads: Tensor, rotation: Rotation) -> Tensor:
    """Turns pairs (i, i + head_size / 2) by their position's angle. heads: [B, H, T, head_size]."""
    cosine, sine = rotation
    first, second = heads.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (heads * cosine + turned * sine).to(heads.dtype)
