"""AdamW (Loshchilov and Hutter 2019) without weight decay on embeddings and norms."""

from __future__ import annotations

import torch
from longhaul_core.recipe import OptimizerConfig
from torch import nn

_UNDECAYED_MODULES = ("embed_tokens",)


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay pulls at this parameter: matrices only, and no embedding."""
    return parameter.dim() > 1 and not any(module in name.split(".") for module in _UNDECAYED_MODULES)


def make_adamw(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """The optimizer over all parameters, in two groups; its learning rate is set before each step."""
    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if decays(n, p)], "weight_decay": config.weight_decay},
        {"params": [p for n, p in named if not decays(n, p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=config.epsilon, fused=True
    )
