"""Causal self-attention with grouped key-value heads (Ainslie et al. 2023)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from longhaul_trainer.model.flex import attend
from longhaul_trainer.model.frame import Frame
from longhaul_trainer.model.linear import Linear
from longhaul_trainer.model.norm import make_norm
from longhaul_trainer.model.rope import rotate
from longhaul_trainer.model.shape import DecoderShape


class Attention(nn.Module):
    """Projects to heads, turns them by position, attends inside documents, projects back."""

    def __init__(self, shape: DecoderShape, layer: int) -> None:
        super().__init__()
        self.head_size, self.window = shape.head_size, shape.window(layer)
        self.rotates, self.grouped, self.dropout = shape.rotates(layer), shape.heads != shape.kv_heads, shape.dropout
        width, kv_width = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
        self.q_proj = Linear(shape.hidden_size, width, bias=shape.attention_bias)
        self.k_proj = Linear(shape.hidden_size, kv_width, bias=shape.attention_bias)
        self.v_proj = Linear(shape.hidden_size, kv_width, bias=shape.attention_bias)
        self.o_proj = Linear(width, shape.hidden_size, bias=shape.attention_bias)
        self.q_norm = make_norm(shape, shape.head_size) if shape.qk_norm else None
        self.k_norm = make_norm(shape, shape.head_size) if shape.qk_norm else None

    def forward(self, hidden: Tensor, frame: Frame) -> Tensor:
        """Attends. hidden: [B, T, C]."""
        batch, length, _ = hidden.shape
        queries = self._split(self.q_proj(hidden), self.q_norm)
        keys = self._split(self.k_proj(hidden), self.k_norm)
        values = self._split(self.v_proj(hidden), None)
        if self.rotates and frame.rotation is not None:
            queries, keys = rotate(queries, frame.rotation), rotate(keys, frame.rotation)
        if frame.gather is not None:
            keys, values = frame.gather(keys), frame.gather(values)
        mixed = self._attend(queries, keys, values, frame)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        return out

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, frame: Frame) -> Tensor:
        """[B, H, T, head_size] each; the portable path takes a mask, the fast one a mask of blocks."""
        if frame.flex:
            return attend(queries, keys, values, frame.blocks(self.window))
        mask = frame.mask(self.window)
        return functional.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask if mask is None or not mask.is_floating_point() else mask.to(queries.dtype),
            is_causal=mask is None,
            dropout_p=self.dropout if self.training else 0.0,
            enable_gqa=self.grouped,
        )

    def _split(self, projected: Tensor, norm: nn.Module | None) -> Tensor:
        """[B, T, H · head_size] to [B, H, T, head_size]; this rank may hold some of the heads only."""
        batch, length, _ = projected.shape
        heads = projected.view(batch, length, -1, self.head_size)
        return (heads if norm is None else norm(heads)).transpose(1, 2)
