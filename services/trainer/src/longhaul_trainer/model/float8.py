"""Matrix products in float8 with a scale a tensor (Micikevicius et al. 2022): e4m3 forward, e5m2 gradients.

For Hopper and later; it pays above about a billion parameters. Output projection, routers and attention scores stay in
bfloat16.
"""

from __future__ import annotations

from typing import Any

import torch
from longhaul_core.errors import FailedPrecondition
from torch import Tensor, nn

from longhaul_trainer.model.decoder import Decoder

_FORWARD, _BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
_MULTIPLE = 16
_OLDEST_CAPABILITY = (8, 9)


def use_float8(model: Decoder, device: torch.device) -> None:
    """Computes the blocks' large linear layers in float8.

    Raises:
        FailedPrecondition: the device has no such arithmetic.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < _OLDEST_CAPABILITY:
        raise FailedPrecondition(
            "runtime.precision float8 needs a GPU of compute capability 8.9 or newer",
            reason="FLOAT8_UNSUPPORTED",
            action="set runtime.precision to bfloat16",
        )
    for block in model.layers.values():
        for module in block.modules():
            if isinstance(module, nn.Linear) and _fits(module):
                module.forward = _Forward(module)  # type: ignore[method-assign, assignment]


def _fits(module: nn.Linear) -> bool:
    aligned = module.in_features % _MULTIPLE == 0 and module.out_features % _MULTIPLE == 0
    return aligned and getattr(module, "bias", None) is None


class _Forward:
    """Replaces a linear layer's forward pass."""

    def __init__(self, module: nn.Linear) -> None:
        self._module = module

    def __call__(self, hidden: Tensor) -> Tensor:
        flat = hidden.reshape(-1, hidden.shape[-1])
        out: Tensor = Float8Product.apply(flat, self._module.weight)  # type: ignore[no-untyped-call]
        return out.view(*hidden.shape[:-1], -1)


class Float8Product(torch.autograd.Function):
    """rows · weightᵀ and its two gradients. rows: [N, C]; weight: [F, C]."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor) -> Tensor:
        """Keeps both factors as they came."""
        ctx.save_for_backward(rows, weight)
        return _product(rows, weight.t(), _FORWARD, _FORWARD)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Quantises the gradient anew for each product."""
        rows, weight = ctx.saved_tensors
        by_rows = _product(gradient, weight, _BACKWARD, _FORWARD)
        by_weight = _product(gradient.t(), rows, _BACKWARD, _FORWARD)
        return by_rows, by_weight


def _product(left: Tensor, right: Tensor, left_type: torch.dtype, right_type: torch.dtype) -> Tensor:
    """Left · right; the kernel wants rows of the one and columns of the other to lie together."""
    first, scale = _quantise(left.contiguous(), left_type)
    second, other = _quantise(right.t().contiguous(), right_type)
    out: Tensor = torch._scaled_mm(first, second.t(), scale_a=scale, scale_b=other, out_dtype=left.dtype)
    return out


def _quantise(tensor: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    largest = torch.finfo(kind).max
    scale = (tensor.abs().amax().float() / largest).clamp(min=1e-12)
    return (tensor.float() / scale).clamp(-largest, largest).to(kind), scale
