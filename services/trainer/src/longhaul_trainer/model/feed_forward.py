"""Feed-forward block: gated (Shazeer 2020) or plain."""

from __future__ import annotations

from collections.abc import Callable

from longhaul_core.recipe import Activation
from torch import Tensor, nn
from torch.nn import functional

from longhaul_trainer.model.linear import Linear
from longhaul_trainer.model.shape import DecoderShape


def _gelu_tanh(hidden: Tensor) -> Tensor:
    return functional.gelu(hidden, approximate="tanh")


def _squared_relu(hidden: Tensor) -> Tensor:
    return functional.relu(hidden).square()


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    Activation.SWIGLU: functional.silu,
    Activation.GEGLU: _gelu_tanh,
    Activation.GELU: functional.gelu,
    Activation.GELU_TANH: _gelu_tanh,
    Activation.RELU: functional.relu,
    Activation.RELU2: _squared_relu,
    Activation.SILU: functional.silu,
}


class FeedForward(nn.Module):
    """down(act(gate(x)) * up(x)), or down(act(up(x))) where the activation is not gated."""

    def __init__(self, shape: DecoderShape, size: int = 0) -> None:
        super().__init__()
        size = size or shape.ffn_size
        self.activate = ACTIVATIONS[shape.activation]
        self.gate_proj = Linear(shape.hidden_size, size, bias=shape.ffn_bias) if shape.activation.gated else None
        self.up_proj = Linear(shape.hidden_size, size, bias=shape.ffn_bias)
        self.down_proj = Linear(size, shape.hidden_size, bias=shape.ffn_bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Transforms each token by itself. hidden: [B, T, C]."""
        if self.gate_proj is None:
            plain: Tensor = self.down_proj(self.activate(self.up_proj(hidden)))
            return plain
        gated: Tensor = self.down_proj(self.activate(self.gate_proj(hidden)) * self.up_proj(hidden))
        return gated
