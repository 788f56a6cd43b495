"""Rotary positions (Su et al. 2021) in the half-split layout of Llama checkpoints, with YaRN (Peng et al. 2023)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from longhaul_trainer.model.shape import DecoderShape

Rotation = tuple[Tensor, Tensor]

YARN_FAST, YARN_SLOW = 32.0, 1.0


class RotaryTable(nn.Module):
    """Cosines and sines for every position; one look-up a step serves all layers."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.theta = shape.rope_theta
        self._yarn = (shape.yarn_factor, shape.yarn_original_context)
        size = (shape.context_length, shape.rotary_size)
        self.register_buffer("cosine", torch.empty(size), persistent=False)
        self.register_buffer("sine", torch.empty(size), persistent=False)
        self.fill()

    def fill(self) -> None:
        """Computes the table; called again after the module was moved from the meta device, or θ was changed."""
        context_length, size = self.cosine.shape
        steps = torch.arange(0, size, 2, dtype=torch.int64, device=self.cosine.device).float()
        frequency = 1.0 / (self.theta ** (steps / size))
        scale = 1.0
        if self._yarn[0]:
            frequency, scale = yarn(frequency, self.theta, *self._yarn)
        angle = torch.outer(torch.arange(context_length, device=self.cosine.device).float(), frequency)
        angle = torch.cat((angle, angle), dim=-1)
        self.cosine.copy_(angle.cos() * scale)
        self.sine.copy_(angle.sin() * scale)

    def forward(self, positions: Tensor) -> Rotation:
        """Rows for positions: int64[B, T], each [B, 1, T, rotary_size]."""
        cosine = functional.embedding(positions, self.cosine)
        sine = functional.embedding(positions, self.sine)
        return cosine.unsqueeze(1), sine.unsqueeze(1)


def yarn(frequency: Tensor, theta: float, factor: float, original_context: int) -> tuple[Tensor, float]:
    """Frequencies that turn less than once in the original context are stretched, fast ones kept, between: blended.

    Returns:
        the frequencies, and the factor by which attention is sharpened (equation 22 of the paper).
    """
    pairs = frequency.shape[0]

    def channel(turns: float) -> float:
        return pairs * math.log(original_context / (turns * 2 * math.pi)) / math.log(theta)

    low, high = max(math.floor(channel(YARN_FAST)), 0), min(math.ceil(channel(YARN_SLOW)), 2 * pairs - 1)
    place = torch.arange(pairs, dtype=torch.float32, device=frequency.device)
    stretched = ((place - low) / max(high - low, 0.001)).clamp(0, 1)
    return frequency / factor * stretched + frequency * (1 - stretched), 0.1 * math.log(factor) + 1.0


def rotate(heads: Tensor, rotation: Rotation) -> Tensor:
    """Turns pairs (i, i + size / 2) of the leading channels by their position's angle. heads: [B, H, T, head_size]."""
    cosine, sine = rotation
    size = cosine.shape[-1]
    turning, still = (heads, None) if size == heads.shape[-1] else (heads[..., :size], heads[..., size:])
    first, second = turning.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    out = (turning * cosine + turned * sine).to(heads.dtype)
    return out if still is None else torch.cat((out, still), dim=-1)
