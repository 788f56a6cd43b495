"""Muon (Jordan et al. 2024): the momentum of each hidden matrix, made orthogonal.

Distributed: momentum lies sharded as its parameter does. A sharded matrix is gathered on all ranks that share it, one
of them (a different one for each matrix) orthogonalises it, and the others receive the result, so that the ranks share
the work. The update is as large as AdamW's (0.2·√max(rows, columns), Liu et al. 2025), hence the same learning rate.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from longhaul_core.recipe import OptimizerConfig
from torch import Tensor
from torch.distributed.tensor import DTensor

from longhaul_trainer.optimizer.adamw import Named
from longhaul_trainer.parallel.slices import local_box

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_SCALE = 0.2


def orthogonalise(matrix: Tensor) -> Tensor:
    """The nearest matrix with singular values near one, by a quintic Newton-Schulz iteration. matrix: [..., R, C]."""
    a, b, c = _COEFFICIENTS
    work = matrix.to(torch.bfloat16) if matrix.is_cuda else matrix
    wide = work.shape[-2] <= work.shape[-1]
    work = work if wide else work.mT
    work = work / (work.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = work @ work.mT
        work = a * work + (b * gram + c * gram @ gram) @ work
    result: Tensor = (work if wide else work.mT).to(matrix.dtype)
    return result


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; decay is decoupled, as in AdamW."""

    def __init__(self, named: Named, config: OptimizerConfig) -> None:
        defaults = {"lr": config.learning_rate, "momentum": config.momentum, "weight_decay": config.weight_decay}
        super().__init__([parameter for _, parameter in named], defaults)
        for _, parameter in named:
            self.state[parameter] = {"momentum": torch.zeros_like(parameter)}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every matrix."""
        for group in self.param_groups:
            for number, parameter in enumerate(group["params"]):
                if parameter.grad is None:
                    continue
                momentum = self.state[parameter]["momentum"]
                momentum.lerp_(parameter.grad, 1.0 - group["momentum"])
                blended = parameter.grad.lerp(momentum, group["momentum"])
                update = _orthogonal_part(blended, number)
                scale = _SCALE * max(parameter.shape[-2:]) ** 0.5
                local = local_box(parameter).local
                local.mul_(1.0 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)


def _orthogonal_part(blended: Tensor, number: int) -> Tensor:
    """This rank's part of the orthogonalised matrix; ``number`` chooses who computes it."""
    if not isinstance(blended, DTensor):
        return orthogonalise(blended)
    mesh, box = blended.device_mesh, local_box(blended)
    whole = blended.full_tensor()
    owner = int(mesh.mesh.flatten()[number % mesh.size()])
    whole = orthogonalise(whole) if dist.get_rank() == owner else torch.zeros_like(whole)
    for dimension in range(mesh.ndim):
        if mesh.size(dimension) > 1:
            dist.all_reduce(whole, group=mesh.get_group(dimension))
    return whole[tuple(slice(o, o + n) for o, n in zip(box.offsets, box.local.shape, strict=True))]
