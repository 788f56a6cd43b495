"""The decoder: embeddings, blocks, final norm, output projection.

Parameter names are those of Hugging Face's Llama without the leading ``model.``, so that export is a renaming.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from longhaul_trainer.model.attention import Attention
from longhaul_trainer.model.feed_forward import FeedForward
from longhaul_trainer.model.mask import document_mask
from longhaul_trainer.model.norm import RMSNorm
from longhaul_trainer.model.rope import RotaryTable, Rotation
from longhaul_trainer.model.shape import DecoderShape


class Block(nn.Module):
    """One layer: attention, then the feed-forward block, each normalised before and added to the residual."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.norm_epsilon)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.norm_epsilon)
        self.mlp = FeedForward(shape)

    def forward(self, hidden: Tensor, rotation: Rotation, mask: Tensor | None) -> Tensor:
        """Adds both parts to the residual stream. hidden: [B, T, C]."""
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), rotation, mask)
        out: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return out


class Decoder(nn.Module):
    """A causal language model over packed documents."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary_size, shape.hidden_size)
        self.rotary = RotaryTable(shape.head_size, shape.context_length, shape.rope_theta)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.hidden_size, shape.norm_epsilon)
        if not shape.tied_embeddings:
            self.lm_head = nn.Linear(shape.hidden_size, shape.vocabulary_size, bias=False)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Next-token logits.

        Args:
            tokens: int64[B, T].
            positions: int64[B, T], restarting from zero at each document.

        Returns:
            float[B, T, vocabulary].
        """
        mask = document_mask(positions)
        rotation = self.rotary(positions)
        hidden = functional.embedding(tokens, self.embed_tokens.weight)
        for block in self.layers:
            hidden = block(hidden, rotation, mask)
        head = self.embed_tokens if self.shape.tied_embeddings else self.lm_head
        return functional.linear(self.norm(hidden), head.weight)
