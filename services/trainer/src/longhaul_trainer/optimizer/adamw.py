"""AdamW (Loshchilov and Hutter 2019) without weight decay on embeddings, norms and biases."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from longhaul_core.recipe import OptimizerConfig
from torch import nn

_UNDECAYED_MODULES = ("embed_tokens", "embed_positions", "conv1d")
MOMENTS = ("exp_avg", "exp_avg_sq")

Named = Sequence[tuple[str, nn.Parameter]]


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay pulls at this parameter: matrices only, and no embedding."""
    return parameter.dim() > 1 and not any(module in name.split(".") for module in _UNDECAYED_MODULES)


def make_adamw(named: Named, config: OptimizerConfig) -> torch.optim.AdamW:
    """The optimizer over these parameters, in two groups; its learning rate is set before each step."""
    groups = [
        {"params": [p for n, p in named if decays(n, p)], "weight_decay": config.weight_decay},
        {"params": [p for n, p in named if not decays(n, p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )


def prepare_adamw(optimizer: torch.optim.AdamW) -> None:
    """Makes the state before the first step, as zeros, so that it can be restored into."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not optimizer.state[parameter]:
                optimizer.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    **{moment: torch.zeros_like(parameter) for moment in MOMENTS},
                }
