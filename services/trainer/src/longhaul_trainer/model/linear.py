"""Matrix products. In float32 on a CPU they go to oneDNN rather than to the BLAS that torch calls.

torch's own float32 product is MKL's, which leaves the AVX-512 units of other vendors' processors idle: 100 against 235
GFLOPS on one Zen 5 core, forward and by the rows; 100 against 165 by the weight, whose factors are copied first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional

_HAS_ONEDNN = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
_library = torch.library.Library("longhaul", "DEF")  # type: ignore[no-untyped-call]
_library.define("multiply(Tensor rows, Tensor weight, Tensor? bias) -> Tensor")  # type: ignore[no-untyped-call]


@torch.library.impl(_library, "multiply", "CPU")
def _multiply(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return product


@torch.library.register_fake("longhaul::multiply", lib=_library)  # type: ignore[untyped-decorator]
def _multiplied(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return rows.new_empty(*rows.shape[:-1], weight.shape[0])


MULTIPLY = torch.ops.longhaul.multiply.default
"""Rows · weightᵀ + bias by oneDNN. An operation of its own, as the compiler takes torch's for a frozen weight's."""


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Rows · weightᵀ + bias. rows: [..., C]; weight: [F, C]."""
    if _suits(rows) and _suits(weight) and rows.numel():
        product: Tensor = _Product.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
        return product
    return functional.linear(rows, weight, bias)


class Linear(nn.Linear):
    """A linear layer that computes by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Transforms each row. input: [..., C]."""
        return linear(input, self.weight, self.bias)


def _suits(tensor: Tensor) -> bool:
    plain = tensor.device.type == "cpu" and tensor.dtype is torch.float32 and not isinstance(tensor, DTensor)
    return plain and _HAS_ONEDNN


class _Product(torch.autograd.Function):
    """The product and its gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Keeps both factors."""
        ctx.save_for_backward(rows, weight)
        ctx.biased = bias is not None
        product: Tensor = MULTIPLY(rows, weight, bias)
        return product

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Only what is asked for: a frozen weight costs no product."""
        rows, weight = ctx.saved_tensors
        by_rows = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            by_rows = MULTIPLY(gradient, weight.t().contiguous(), None)
        flat = gradient.reshape(-1, gradient.shape[-1])
        if ctx.needs_input_grad[1]:
            flat_rows = rows.reshape(-1, rows.shape[-1])
            by_weight = MULTIPLY(flat.t().contiguous(), flat_rows.t().contiguous(), None)
        if ctx.biased and ctx.needs_input_grad[2]:
            by_bias = flat.sum(dim=0)
        return by_rows, by_weight, by_bias
