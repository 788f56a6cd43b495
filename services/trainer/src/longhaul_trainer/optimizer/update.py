"""All optimizers of a model as one: which parameter moves by which rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from longhaul_core.recipe import OptimizerConfig, OptimizerKind
from torch import Tensor, nn

from longhaul_trainer.optimizer.adamw import decays, make_adamw, prepare_adamw
from longhaul_trainer.optimizer.muon import Muon

_NOT_HIDDEN = ("embed_tokens", "embed_positions", "lm_head", "gate")


class Update:
    """Moves every parameter of a model; the state is there from the beginning, so that it can be restored into."""

    def __init__(self, model: nn.Module, config: OptimizerConfig) -> None:
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        hidden = [pair for pair in named if config.kind is OptimizerKind.MUON and is_hidden_matrix(*pair)]
        chosen = {name for name, _ in hidden}
        adamw = make_adamw([pair for pair in named if pair[0] not in chosen], config)
        prepare_adamw(adamw)
        self._optimizers: list[torch.optim.Optimizer] = [adamw, *([Muon(hidden, config)] if hidden else [])]

    @property
    def state(self) -> Mapping[Tensor, Mapping[str, Any]]:
        """Moments by parameter."""
        merged: dict[Tensor, Mapping[str, Any]] = {}
        for optimizer in self._optimizers:
            merged.update(optimizer.state)
        return merged

    def step(self, rate: float) -> None:
        """Applies the gradients at this learning rate, then forgets them."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def forget_gradients(self) -> None:
        """Drops the gradients without a step."""
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon moves it: matrices of the blocks, not embeddings, heads, routers or convolutions."""
    return decays(name, parameter) and not any(part in _NOT_HIDDEN for part in name.split("."))
