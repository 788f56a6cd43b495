"""What is saved: named tensors, each with the rows that this rank holds of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from longhaul_trainer.parallel.slices import local_slice

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class TensorSlice:
    """Rows ``offset`` .. ``offset + len(local)`` of a tensor; a scalar is held whole by every rank."""

    name: str
    local: Tensor
    shape: tuple[int, ...]
    offset: int


def model_slices(model: nn.Module) -> list[TensorSlice]:
    """This rank's part of each parameter, by its full name."""
    found = []
    for name, parameter in model.named_parameters():
        local, offset = local_slice(parameter)
        found.append(TensorSlice(name, local, tuple(parameter.shape), offset))
    return found


def optimizer_slices(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[TensorSlice]:
    """This rank's part of AdamW's moments and step counts, by ``{moment}.{parameter}``."""
    found = []
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        for moment in MOMENTS:
            local, offset = local_slice(state[moment])
            found.append(TensorSlice(f"{moment}.{name}", local, tuple(parameter.shape), offset))
        found.append(TensorSlice(f"step.{name}", local_slice(state["step"])[0], (), 0))
    return found


def prepare_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Makes AdamW's state before its first step, as zeros, so that it can be restored into."""
    for parameter in model.parameters():
        if optimizer.state[parameter]:
            continue
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            **{moment: torch.zeros_like(parameter) for moment in MOMENTS},
        }
