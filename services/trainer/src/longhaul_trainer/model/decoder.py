"""The decoder: embeddings, blocks, final norm, output projection; or the part of it that one pipeline rank holds.

Parameter names are those of Hugging Face's Llama without the leading ``model.``, so that export is a renaming.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from longhaul_core.recipe import Position
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.nn import functional

from longhaul_trainer.model.attention import Attention
from longhaul_trainer.model.feed_forward import FeedForward
from longhaul_trainer.model.frame import Frame, make_frame
from longhaul_trainer.model.linear import Linear, linear
from longhaul_trainer.model.mamba import Mamba
from longhaul_trainer.model.moe import MixtureOfExperts, Router
from longhaul_trainer.model.norm import make_norm
from longhaul_trainer.model.rope import RotaryTable
from longhaul_trainer.model.shape import DecoderShape


class ContextSplit(Protocol):
    """How rows are spread over ranks (context parallel)."""

    def columns(self, length: int, device: torch.device) -> Tensor:
        """This rank's tokens of a row."""
        ...

    def gather(self, part: Tensor) -> Tensor:
        """Whole rows of keys or values, in order. part: [B, H, T, D]."""
        ...


class Block(nn.Module):
    """One layer: attention or state space, then feed-forward or experts, each normalised before and added."""

    def __init__(self, shape: DecoderShape, layer: int) -> None:
        super().__init__()
        self.input_layernorm = make_norm(shape, shape.hidden_size)
        if shape.attends(layer):
            self.self_attn = Attention(shape, layer)
        else:
            self.mamba = Mamba(shape)
        self.post_attention_layernorm = make_norm(shape, shape.hidden_size)
        self.mlp = MixtureOfExperts(shape) if shape.has_experts(layer) else FeedForward(shape)
        self.attends, self.dropout = shape.attends(layer), shape.dropout

    def forward(self, hidden: Tensor, frame: Frame) -> Tensor:
        """Adds both parts to the residual stream. hidden: [B, T, C]."""
        mixer = self.self_attn if self.attends else self.mamba
        hidden = hidden + self._drop(mixer(self.input_layernorm(hidden), frame))
        return hidden + self._drop(self.mlp(self.post_attention_layernorm(hidden)))

    def _drop(self, added: Tensor) -> Tensor:
        return functional.dropout(added, self.dropout, self.training) if self.dropout else added


class Decoder(nn.Module):
    """A causal language model over packed documents.

    Args:
        shape: the whole model.
        layers: the layers that this rank holds; all where None.
        first: holds the embeddings.
        last: holds the output projection. A tied one without the embeddings' layer is a copy under the same name.
    """

    def __init__(
        self, shape: DecoderShape, layers: Sequence[int] | None = None, *, first: bool = True, last: bool = True
    ) -> None:
        super().__init__()
        self.shape, self.first, self.last = shape, first, last
        self.context: ContextSplit | None = None
        self.flex = False
        hidden = shape.hidden_size
        if first or (last and shape.tied_embeddings):
            self.embed_tokens = nn.Embedding(shape.vocabulary_size, hidden)
        if first and shape.position is Position.LEARNED:
            self.embed_positions = nn.Embedding(shape.context_length, hidden)
        self.rotary = RotaryTable(shape) if shape.position is Position.ROPE else None
        held = range(shape.layers) if layers is None else layers
        self.layers = nn.ModuleDict({str(layer): Block(shape, layer) for layer in held})
        if last:
            self.norm = make_norm(shape, hidden)
            if not shape.tied_embeddings:
                self.lm_head = Linear(hidden, shape.vocabulary_size, bias=False)

    def forward(self, inputs: Tensor, positions: Tensor) -> Tensor:
        """Next-token logits, or the residual stream for the next pipeline stage.

        Args:
            inputs: int64[B, T] tokens, or float[B, T, C] from the stage before.
            positions: int64[B, S], restarting from zero at each document; S is T but where rows are spread over ranks.

        Returns:
            float[B, T, vocabulary], or float[B, T, C].
        """
        context, device = self.context, positions.device
        columns = None if context is None else context.columns(positions.shape[1], device)
        gather = None if context is None else context.gather
        frame = make_frame(self.shape, self.rotary, positions, columns, gather, flex=self.flex)
        frame.prepare({self.shape.window(int(n)) for n, block in self.layers.items() if block.attends})
        hidden = self._embed(inputs, positions, columns) if self.first else inputs
        for block in self.layers.values():
            hidden = block(hidden, frame)
        return self._project(hidden) if self.last else hidden

    def routers(self) -> Iterator[tuple[int, Router]]:
        """Routers of the layers held here, with the layer's number."""
        for number, block in self.layers.items():
            if isinstance(block.mlp, MixtureOfExperts):
                yield int(number), block.mlp.gate

    def fill_buffers(self) -> None:
        """Sets what no checkpoint holds; called after the module was moved from the meta device."""
        if self.rotary is not None:
            self.rotary.fill()
        for _, router in self.routers():
            router.reset()

    def _embed(self, tokens: Tensor, positions: Tensor, columns: Tensor | None) -> Tensor:
        hidden: Tensor = self.embed_tokens(tokens)
        if self.shape.position is Position.LEARNED:
            hidden = hidden + self.embed_positions(positions if columns is None else positions[:, columns])
        return functional.dropout(hidden, self.shape.dropout, self.training) if self.shape.dropout else hidden

    def _project(self, hidden: Tensor) -> Tensor:
        hidden = self.norm(hidden)
        if not self.shape.tied_embeddings:
            logits: Tensor = self.lm_head(hidden)
        elif isinstance(self.embed_tokens.weight, DTensor):
            logits = _project_split(hidden, self.embed_tokens.weight)
        else:
            logits = linear(hidden, self.embed_tokens.weight)
        cap = self.shape.logit_softcap
        return cap * torch.tanh(logits / cap) if cap else logits


def _project_split(hidden: Tensor, weight: DTensor) -> Tensor:
    """Logits by a vocabulary that is spread over the tensor-parallel ranks; hidden may be spread along the row."""
    mesh = weight.device_mesh
    spread = hidden if isinstance(hidden, DTensor) else DTensor.from_local(hidden, mesh, [Shard(1)], run_check=False)
    logits = functional.linear(spread.redistribute(mesh, [Replicate()]), weight)
    assert isinstance(logits, DTensor)
    return logits.redistribute(mesh, [Replicate()]).to_local()
