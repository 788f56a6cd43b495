"""A state-space layer: Mamba-2 (Dao and Gu 2024), computed chunk by chunk; states end where documents end.

Cost: linear in the row's length; inside a chunk of l tokens the scores are l × l, as in attention.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from longhaul_trainer.model.frame import Frame
from longhaul_trainer.model.linear import Linear
from longhaul_trainer.model.mask import documents_of
from longhaul_trainer.model.shape import DecoderShape


class GatedNorm(nn.Module):
    """RMS norm of x · silu(gate), a group of channels at a time."""

    def __init__(self, size: int, groups: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.groups, self.epsilon = groups, epsilon

    def forward(self, hidden: Tensor, gate: Tensor) -> Tensor:
        """Normalises in float32. hidden, gate: [B, T, C]."""
        gated = hidden.float() * functional.silu(gate.float())
        gated = gated.view(*gated.shape[:-1], self.groups, -1)
        normed = gated * torch.rsqrt(gated.square().mean(-1, keepdim=True) + self.epsilon)
        out: Tensor = self.weight * normed.flatten(-2).to(gate.dtype)
        return out


class Mamba(nn.Module):
    """Gate, short convolution, selective scan, norm, projection."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.config, self.size = shape.hybrid, shape.mamba_size
        state = self.config.groups * self.config.state_size
        self.split = [self.size, self.size + 2 * state, self.config.heads]
        self.in_proj = Linear(shape.hidden_size, sum(self.split), bias=False)
        self.conv1d = nn.Conv1d(self.split[1], self.split[1], self.config.convolution, groups=self.split[1])
        self.dt_bias = nn.Parameter(torch.ones(self.config.heads))
        self.A_log = nn.Parameter(torch.zeros(self.config.heads))
        self.D = nn.Parameter(torch.ones(self.config.heads))
        self.norm = GatedNorm(self.size, self.config.groups, shape.norm_epsilon)
        self.out_proj = Linear(self.size, shape.hidden_size, bias=False)

    def forward(self, hidden: Tensor, frame: Frame) -> Tensor:
        """Mixes along the row. hidden: [B, T, C]."""
        config = self.config
        gate, mixed, steps = torch.split(self.in_proj(hidden), self.split, dim=-1)
        mixed = functional.silu(self._convolve(mixed, frame.positions))
        state = config.groups * config.state_size
        values, keys, queries = torch.split(mixed, [self.size, state, state], dim=-1)
        values = values.view(*values.shape[:-1], config.heads, -1).float()
        repeat = config.heads // config.groups
        keys, queries = (
            part.view(*part.shape[:-1], config.groups, -1).float().repeat_interleave(repeat, dim=2)
            for part in (keys, queries)
        )
        steps = functional.softplus(steps.float() + self.dt_bias.float())
        decay = -torch.exp(self.A_log.float()) * steps
        out = scan(values * steps.unsqueeze(-1), decay, keys, queries, documents_of(frame.positions), config.chunk)
        out = (out + self.D.float().unsqueeze(-1) * values).flatten(-2)
        projected: Tensor = self.out_proj(self.norm(out.to(hidden.dtype), gate))
        return projected

    def _convolve(self, mixed: Tensor, positions: Tensor) -> Tensor:
        """Causal convolution a channel that does not look into the document before. mixed: [B, T, C]."""
        weight, taps = self.conv1d.weight.squeeze(1), self.config.convolution
        out = mixed * weight[:, taps - 1]
        for back in range(1, min(taps, mixed.shape[1])):
            earlier = functional.pad(mixed[:, :-back], (0, 0, back, 0))
            own = (positions >= back).unsqueeze(-1)
            out = out + torch.where(own, earlier, 0) * weight[:, taps - 1 - back]
        return out if self.conv1d.bias is None else out + self.conv1d.bias


def scan(values: Tensor, decay: Tensor, keys: Tensor, queries: Tensor, documents: Tensor, chunk: int) -> Tensor:
    """y_t = q_t · S_t with S_t = exp(decay_t) · S_(t-1) + k_t ⊗ v_t, S starting anew in each document.

    Args:
        values: float32[B, T, H, P].
        decay: float32[B, T, H], logarithms.
        keys: float32[B, T, H, N].
        queries: float32[B, T, H, N].
        documents: int64[B, T], not falling along a row.
        chunk: tokens at once.

    Returns:
        float32[B, T, H, P].
    """
    batch, length, heads, width = values.shape
    state = values.new_zeros(batch, heads, width, keys.shape[-1])
    carried = documents[:, :1]
    outputs = []
    for begin in range(0, length, chunk):
        part = slice(begin, begin + chunk)
        v, a, k, q, d = values[:, part], decay[:, part], keys[:, part], queries[:, part], documents[:, part]
        weights = _decays(a) * (d.unsqueeze(2) == d.unsqueeze(1)).unsqueeze(-1)
        scores = torch.einsum("blhn,bshn->blsh", q, k) * weights
        inside = torch.einsum("blsh,bshp->blhp", scores, v)
        since = a.cumsum(dim=1).exp() * (d == carried).unsqueeze(-1)
        before = torch.einsum("blhn,bhpn->blhp", q, state) * since.unsqueeze(-1)
        outputs.append(inside + before)
        added = torch.einsum("bsh,bshn,bshp->bhpn", weights[:, -1], k, v)
        state = state * since[:, -1, :, None, None] + added
        carried = d[:, -1:]
    return torch.cat(outputs, dim=1)


def _decays(decay: Tensor) -> Tensor:
    """Exp of the sum of decays after s up to l, 0 for s > l; sums, not differences, as these lose the small ones.

    decay: [B, l, H]; result: [B, l, s, H].
    """
    length = decay.shape[1]
    after = torch.ones(length, length, dtype=torch.bool, device=decay.device).tril(-1)
    summed = torch.where(after[None, :, :, None], decay.unsqueeze(2), 0.0).cumsum(dim=1)
    allowed = torch.ones_like(after).tril()
    return torch.where(allowed[None, :, :, None], summed, float("-inf")).exp()
