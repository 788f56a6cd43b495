"""Parameters and floating-point operations of a decoder.

FLOPs a token = 6 * N_mm + 12 * L * d * S, forward and backward, where N_mm counts the parameters used in matrix
products: the output projection is counted even when it is tied to the embedding (leaving it out makes a 124M model look
27 % cheaper than it is), the embedding lookup is not.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The shape of a dense decoder with grouped-query attention and a gated feed-forward block."""

    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_size: int
    ffn_size: int
    vocabulary_size: int
    sequence_length: int
    tied_embeddings: bool = True
    gated_ffn: bool = True
    qk_norm: bool = False

    @property
    def attention_width(self) -> int:
        """Width of all query heads together; the `d` of the attention term."""
        return self.heads * self.head_size


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Counted parameters and the operations they cost."""

    parameters: int
    embedding_parameters: int
    layer_parameters: int
    matmul_parameters: int
    attention_flops_per_token: int

    @property
    def flops_per_token(self) -> int:
        """Forward and backward, without recomputation."""
        return 6 * self.matmul_parameters + self.attention_flops_per_token


def size_model(shape: ModelShape) -> ModelSize:
    """Counts the parameters of `shape` exactly and the FLOPs of one token of training."""
    attention = shape.hidden_size * shape.head_size * 2 * (shape.heads + shape.kv_heads)
    ffn = (3 if shape.gated_ffn else 2) * shape.hidden_size * shape.ffn_size
    norms = 2 * shape.hidden_size + (2 * shape.head_size if shape.qk_norm else 0)
    table = shape.vocabulary_size * shape.hidden_size
    embedding = table if shape.tied_embeddings else 2 * table
    return ModelSize(
        parameters=embedding + shape.layers * (attention + ffn + norms) + shape.hidden_size,
        embedding_parameters=embedding,
        layer_parameters=attention + ffn + norms,
        matmul_parameters=shape.layers * (attention + ffn) + table,
        attention_flops_per_token=12 * shape.layers * shape.attention_width * shape.sequence_length,
    )
