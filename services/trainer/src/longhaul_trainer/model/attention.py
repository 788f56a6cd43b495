"""Causal self-attention with grouped key-value heads (Ainslie et al. 2023)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from longhaul_trainer.model.rope import Rotation, rotate
from longhaul_trainer.model.shape import DecoderShape


class Attention(nn.Module):
    """Projects to heads, turns them by position, attends inside documents, projects back."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_size = shape.heads, shape.kv_heads, shape.head_size
        self.q_proj = nn.Linear(shape.hidden_size, shape.heads * shape.head_size, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, shape.kv_heads * shape.head_size, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, shape.kv_heads * shape.head_size, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.head_size, shape.hidden_size, bias=False)

    def forward(self, hidden: Tensor, rotation: Rotation, mask: Tensor | None) -> Tensor:
        """Attends. hidden: [B, T, C]; mask: bool[B, 1, T, T], or None for plain causal."""
        batch, length, _ = hidden.shape
        queries = self._split(self.q_proj(hidden), self.heads)
        keys = self._split(self.k_proj(hidden), self.kv_heads)
        values = self._split(self.v_proj(hidden), self.kv_heads)
        mixed = functional.scaled_dot_product_attention(
            rotate(queries, rotation),
            rotate(keys, rotation),
            values,
            attn_mask=mask,
            is_causal=mask is None,
            enable_gqa=self.heads != self.kv_heads,
        )
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        return out

    def _split(self, projected: Tensor, heads: int) -> Tensor:
        batch, length, _ = projected.shape
        return projected.view(batch, length, heads, self.head_size).transpose(1, 2)
