"""Gradient norm and scaling on the local shards, one fused pass each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from longhaul_trainer.parallel.grid import Grid
from longhaul_trainer.parallel.slices import local_box

_NORM_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Gradient:
    """This rank's shard of a gradient. ``replicas``: ranks that hold the same one; 0: another rank counts it."""

    local: Tensor
    replicas: int


def settle(model: nn.Module) -> None:
    """Gives every gradient its parameter's placement: those of replicated parameters may still be parts of a sum."""
    for parameter in model.parameters():
        gradient = parameter.grad
        if not isinstance(gradient, DTensor) or not isinstance(parameter, DTensor):
            continue
        if gradient.placements != parameter.placements:
            parameter.grad = gradient.redistribute(parameter.device_mesh, parameter.placements)


def sum_tied(model: nn.Module, grid: Grid) -> None:
    """Adds the gradients of the embedding at the beginning and of its copy at the end of a pipeline."""
    if grid.ends is None or not grid.holds_tied_end:
        return
    parameter = model.get_parameter("embed_tokens.weight")
    gradient = parameter.grad
    if not parameter.requires_grad:
        return
    if gradient is None:
        gradient = parameter.grad = torch.zeros_like(parameter)
    dist.all_reduce(gradient.to_local() if isinstance(gradient, DTensor) else gradient, group=grid.ends)


def local_gradients(named: Sequence[tuple[str, Tensor]], copies: frozenset[str] = frozenset()) -> list[Gradient]:
    """This rank's shard of each gradient that there is; empty shards are left out."""
    found = []
    for name, parameter in named:
        if parameter.grad is None:
            continue
        box = local_box(parameter.grad)
        if box.local.numel():
            found.append(Gradient(box.local, 0 if name in copies else box.replicas))
    return found


def squared_norm(gradients: Sequence[Gradient]) -> float:
    """This rank's part of the sum of squares; to be summed over the ranks."""
    counted = [gradient for gradient in gradients if gradient.replicas]
    if not counted:
        return 0.0
    norms = torch.stack(torch._foreach_norm([gradient.local for gradient in counted])).double()
    weights = torch.tensor([1.0 / gradient.replicas for gradient in counted], dtype=torch.float64, device=norms.device)
    return float((norms.square() * weights).sum())


def squared_weights(named: Sequence[tuple[str, Tensor]], copies: frozenset[str] = frozenset()) -> float:
    """This rank's part of the sum of squares of the parameters; to be summed over the ranks."""
    boxes = [local_box(parameter) for name, parameter in named if name not in copies]
    return squared_norm([Gradient(box.local, box.replicas) for box in boxes if box.local.numel()])


def clip_factor(norm: float, limit: float) -> float:
    """What to multiply gradients of this norm with, so that it does not exceed the limit."""
    return min(1.0, limit / (norm + _NORM_EPSILON))


def scale(gradients: Sequence[Gradient], factor: float) -> None:
    """Multiplies the local shards in place."""
    if gradients:
        torch._foreach_mul_([gradient.local for gradient in gradients], factor)


@torch.no_grad()
def add_penalty(parameters: Sequence[nn.Parameter], l1: float, l2: float) -> None:
    """Adds the gradients of l1·Σ|w| and l2/2·Σw²."""
    for parameter in parameters:
        if parameter.grad is not None:
            weight = local_box(parameter).local
            local_box(parameter.grad).local.add_(weight, alpha=l2).add_(weight.sign(), alpha=l1)
