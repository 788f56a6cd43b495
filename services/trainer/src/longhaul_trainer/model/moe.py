"""Mixture of experts: each token visits its k likeliest experts (Shazeer et al. 2017), and one that all share.

Two ways to keep the experts evenly used, both on shares that were counted over the whole global batch: a loss
(Fedus et al. 2021; the shares are those of the step before, so that no layer has to wait for all ranks and every layout
computes the same), and a selection bias (Wang et al. 2024) that moves a little after each step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional

from longhaul_trainer.model.feed_forward import ACTIVATIONS, FeedForward
from longhaul_trainer.model.linear import linear
from longhaul_trainer.model.shape import DecoderShape

Compute = Callable[[Tensor, Tensor], Tensor]
"""(rows ordered by expert, rows of each expert) to the experts' outputs of the rows."""

Exchange = Callable[[Tensor, Tensor, Compute], Tensor]


class Router(nn.Module):
    """Chooses experts and weighs them. ``load``: share of each expert in the step before; ``bias``: for the choice."""

    load: Tensor
    bias: Tensor
    counts: Tensor

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        moe = shape.moe
        self.weight = nn.Parameter(torch.empty(moe.experts, shape.hidden_size))
        self.top_k, self.normalise, self.balance_loss = moe.experts_per_token, moe.normalise_top_k, moe.balance_loss
        self.register_buffer("load", torch.full((moe.experts,), 1.0 / moe.experts))
        self.register_buffer("bias", torch.zeros(moe.experts))
        self.register_buffer("counts", torch.zeros(moe.experts), persistent=False)

    def reset(self) -> None:
        """Sets the state before the first step."""
        self.load.fill_(1.0 / len(self.load))
        self.bias.zero_()
        self.counts.zero_()

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights and indices of the chosen experts, and the balance loss summed over the tokens. hidden: [N, C]."""
        probability = functional.linear(hidden, self.weight).float().softmax(dim=-1)
        chosen = (probability + self.bias).topk(self.top_k, dim=-1).indices
        weights = probability.gather(1, chosen)
        if self.normalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        self._count(chosen, torch.is_grad_enabled())
        unevenness = (probability.sum(dim=0) * self.load).sum() * len(self.load) * self.balance_loss
        return weights.to(hidden.dtype), chosen, unevenness

    @torch.no_grad()
    def _count(self, chosen: Tensor, grad_enabled: bool) -> None:
        """Counts in training only, and not again when activations are recomputed in the backward pass."""
        if self.training and grad_enabled and torch._C._current_graph_task_id() == -1:
            self.counts += torch.bincount(chosen.flatten(), minlength=len(self.load))

    @torch.no_grad()
    def settle(self, counts: Tensor, bias_rate: float) -> None:
        """After a step: takes over the counts of all ranks and micro-batches. counts: [experts]."""
        self.load.copy_(counts / counts.sum().clamp(min=1.0))
        self.bias += bias_rate * torch.sign(1.0 / len(self.load) - self.load)
        self.counts.zero_()


class Experts(nn.Module):
    """Feed-forward blocks, their matrices stacked. ``exchange`` sends rows to the ranks that hold their experts."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        moe, hidden = shape.moe, shape.hidden_size
        self.activate, self.gated = ACTIVATIONS[shape.activation], shape.activation.gated
        if self.gated:
            self.gate_proj = nn.Parameter(torch.empty(moe.experts, moe.expert_size, hidden))
        self.up_proj = nn.Parameter(torch.empty(moe.experts, moe.expert_size, hidden))
        self.down_proj = nn.Parameter(torch.empty(moe.experts, hidden, moe.expert_size))
        self.exchange: Exchange | None = None
        self.experts = moe.experts

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Weighted sum of the chosen experts' outputs. hidden: [N, C]; chosen, weights: [N, k]."""
        flat = chosen.flatten()
        order = flat.argsort(stable=True)
        counts = torch.bincount(flat, minlength=self.experts)
        rows = hidden[order // chosen.shape[1]]
        out = self.compute(rows, counts) if self.exchange is None else self.exchange(rows, counts, self.compute)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        visited: Tensor = out[place].view(*chosen.shape, -1) * weights.unsqueeze(-1)
        return visited.sum(dim=1)

    def compute(self, rows: Tensor, counts: Tensor) -> Tensor:
        """The experts that this rank holds, one after the other. rows: [N, C], ordered by expert."""
        up, down = _local(self.up_proj), _local(self.down_proj)
        gate = _local(self.gate_proj) if self.gated else None
        outputs = []
        for expert, part in enumerate(torch.split(rows, counts.tolist())):
            inner = linear(part, up[expert])
            gated = inner if gate is None else linear(part, gate[expert])
            inner = self.activate(gated) if gate is None else self.activate(gated) * inner
            outputs.append(linear(inner, down[expert]))
        return torch.cat(outputs)


class MixtureOfExperts(nn.Module):
    """Router, experts, and the shared expert where there is one."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.gate = Router(shape)
        self.experts = Experts(shape)
        shared = shape.moe.shared_expert_size
        self.shared_expert = FeedForward(shape, shared) if shared else None

    def forward(self, hidden: Tensor) -> Tensor:
        """Transforms each token by itself. hidden: [B, T, C]."""
        flat = hidden.flatten(0, 1)
        weights, chosen, unevenness = self.gate(flat)
        out: Tensor = self.experts(flat, chosen, weights)
        if self.shared_expert is not None:
            out = out + self.shared_expert(flat)
        if self.training and self.gate.balance_loss:
            out = _AddLoss.apply(out, unevenness)  # type: ignore[no-untyped-call]
        return out.view_as(hidden)


class _AddLoss(torch.autograd.Function):
    """Adds a loss in the middle of a model: the output is unchanged, the loss gets the gradient one."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, loss: Tensor) -> Tensor:
        ctx.like = loss
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, torch.ones_like(ctx.like)


def _local(parameter: Tensor) -> Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter
