"""The sizes and choices that define a decoder, checked once, before any memory is taken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from longhaul_core.errors import InvalidArgument
from longhaul_core.recipe import (
    Activation,
    HybridConfig,
    Initialisation,
    MoeConfig,
    Norm,
    Position,
    TrainerConfig,
)

_SIZES = ("vocabulary_size", "hidden_size", "layers", "heads", "kv_heads", "ffn_size", "context_length")


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """A decoder's architecture; every other part of the trainer reads it from here."""

    vocabulary_size: int
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    ffn_size: int
    context_length: int
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-5
    tied_embeddings: bool = True
    init_std: float = 0.02
    head_dimension: int = 0
    norm: Norm = Norm.RMSNORM
    qk_norm: bool = False
    activation: Activation = Activation.SWIGLU
    position: Position = Position.ROPE
    rotary_fraction: float = 1.0
    yarn_factor: float = 0.0
    yarn_original_context: int = 0
    nope_every: int = 0
    sliding_window: int = 0
    full_attention_every: int = 0
    attention_bias: bool = False
    ffn_bias: bool = False
    dropout: float = 0.0
    logit_softcap: float = 0.0
    init: Initialisation = Initialisation.NORMAL
    moe: MoeConfig = field(default_factory=MoeConfig)
    hybrid: HybridConfig = field(default_factory=HybridConfig)

    def __post_init__(self) -> None:
        """Refuses sizes that do not fit together.

        Raises:
            InvalidArgument: with one violation a field.
        """
        violations = [(name, text) for name, text in self._violations()]
        if violations:
            raise InvalidArgument("The model's sizes do not fit together", violations=violations)

    def _violations(self) -> list[tuple[str, str]]:
        wrong = [
            (f"model.{name}", f"must be at least 1, not {getattr(self, name)}")
            for name in _SIZES
            if getattr(self, name) < 1
        ]
        if wrong:
            return wrong
        if not self.head_dimension and self.hidden_size % self.heads:
            wrong.append(("model.heads", f"{self.heads} does not divide hidden_size {self.hidden_size}"))
        elif self.position is Position.ROPE and self.rotary_size % 2:
            wrong.append(("model.heads", f"head size {self.head_size} is odd; rotary positions need pairs"))
        if self.heads % self.kv_heads:
            wrong.append(("model.kv_heads", f"{self.kv_heads} does not divide heads {self.heads}"))
        if self.has_mamba and self.mamba_size % self.hybrid.heads:
            wrong.append(("model.hybrid.heads", f"{self.hybrid.heads} does not divide {self.mamba_size} channels"))
        return wrong

    @classmethod
    def resolve(cls, config: TrainerConfig, vocabulary_size: int) -> DecoderShape:
        """The shape of a configuration on a token set with so many tokens in its vocabulary."""
        model = config.model
        if model.vocabulary_size and model.vocabulary_size < vocabulary_size:
            raise InvalidArgument(
                f"The token set uses {vocabulary_size} token ids; the model has {model.vocabulary_size}",
                violations=[("model.vocabulary_size", f"must be at least {vocabulary_size}, or 0 to follow the data")],
            )
        given = {part.name: getattr(model, part.name) for part in fields(cls) if hasattr(model, part.name)}
        given["vocabulary_size"] = model.vocabulary_size or vocabulary_size
        return cls(**given, context_length=config.longest_sequence)

    def to_document(self) -> dict[str, Any]:
        """JSON values of every field."""
        document = asdict(self)
        return {**document, "moe": self.moe.model_dump(), "hybrid": self.hybrid.model_dump()}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> DecoderShape:
        """The shape that was written by ``to_document``."""
        kinds = {"norm": Norm, "activation": Activation, "position": Position, "init": Initialisation}
        given: dict[str, Any] = {
            name: kinds[name](value) if name in kinds else value for name, value in document.items()
        }
        given["moe"] = MoeConfig.model_validate(given.get("moe", {}))
        given["hybrid"] = HybridConfig.model_validate(given.get("hybrid", {}))
        return cls(**given)

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.head_dimension or self.hidden_size // self.heads

    @property
    def rotary_size(self) -> int:
        """Channels of a head that rotary positions turn."""
        return int(self.head_size * self.rotary_fraction)

    @property
    def mamba_size(self) -> int:
        """Inner width of a state-space layer."""
        return self.hybrid.expand * self.hidden_size

    @property
    def has_mamba(self) -> bool:
        """Whether any layer is a state-space layer."""
        return not all(self.attends(layer) for layer in range(self.layers))

    def attends(self, layer: int) -> bool:
        """Whether the layer attends; otherwise it is a state-space layer."""
        every = self.hybrid.attention_every
        return not every or layer % every == self.hybrid.attention_offset % every

    def rotates(self, layer: int) -> bool:
        """Whether the layer has rotary positions."""
        return self.position is Position.ROPE and not (self.nope_every and (layer + 1) % self.nope_every == 0)

    def window(self, layer: int) -> int:
        """Tokens that the layer looks back, itself included; 0: all."""
        full = self.full_attention_every and (layer + 1) % self.full_attention_every == 0
        return 0 if full else self.sliding_window

    def has_experts(self, layer: int) -> bool:
        """Whether the layer's feed-forward block is a mixture of experts."""
        moe = self.moe
        return bool(moe.experts) and layer >= moe.first_dense_layers and (layer + 1) % moe.every == 0

    @property
    def matrix_parameters(self) -> int:
        """Parameters that take part in matrix products a token; the output projection counts even when tied.

        Of a mixture of experts only the active ones count, of which every token visits the same number.
        """
        layers = sum(self._mixer_matrices(layer) + self._ffn_matrices(layer, active=True) for layer in self._all)
        return layers + self.vocabulary_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """All parameters, each counted once."""
        hidden, embedding = self.hidden_size, self.vocabulary_size * self.hidden_size
        norm = hidden * (2 if self.norm is Norm.LAYERNORM else 1)
        total = embedding * (1 if self.tied_embeddings else 2) + norm
        total += self.context_length * hidden if self.position is Position.LEARNED else 0
        for layer in self._all:
            total += 2 * norm + self._mixer_matrices(layer) + self._ffn_matrices(layer, active=False)
            total += self._mixer_vectors(layer) + self._ffn_vectors(layer)
        return total

    @property
    def _all(self) -> range:
        return range(self.layers)

    def _mixer_matrices(self, layer: int) -> int:
        if self.attends(layer):
            return self.hidden_size * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        return self.hidden_size * (2 * self.mamba_size + self._mamba_channels + self.hybrid.heads)

    @property
    def _mamba_channels(self) -> int:
        return self.mamba_size + 2 * self.hybrid.groups * self.hybrid.state_size

    def _mixer_vectors(self, layer: int) -> int:
        if not self.attends(layer):
            return self._mamba_channels * (self.hybrid.convolution + 1) + 3 * self.hybrid.heads + self.mamba_size
        norms = 2 * self.head_size * (2 if self.norm is Norm.LAYERNORM else 1) if self.qk_norm else 0
        biases = self.head_size * (self.heads + 2 * self.kv_heads) + self.hidden_size if self.attention_bias else 0
        return norms + biases

    def _ffn_matrices(self, layer: int, *, active: bool) -> int:
        matrices = 3 if self.activation.gated else 2
        if not self.has_experts(layer):
            return matrices * self.hidden_size * self.ffn_size
        moe = self.moe
        experts = moe.experts_per_token if active else moe.experts
        width = experts * moe.expert_size + moe.shared_expert_size
        return matrices * self.hidden_size * width + self.hidden_size * moe.experts

    def _ffn_vectors(self, layer: int) -> int:
        if self.has_experts(layer) or not self.ffn_bias:
            return 0
        return self.ffn_size * (2 if self.activation.gated else 1) + self.hidden_size

    @property
    def sparsity(self) -> float:
        """Experts for each one that a token visits; 1 for a dense model."""
        return self.moe.experts / self.moe.experts_per_token if self.moe.experts else 1.0

    @property
    def granularity(self) -> float:
        """Model width over half an expert's width (2·d / expert), as Krajewski et al. 2024 count it."""
        return 2 * self.hidden_size / self.moe.expert_size if self.moe.experts else math.nan

    def flops_per_token(self, sequence_length: int) -> float:
        """Training FLOPs a token: 6·N_mm + 12·L·d·S (PaLM, appendix B), L counting the layers that attend."""
        attending = sum(self.attends(layer) for layer in self._all)
        width = self.heads * self.head_size
        return 6.0 * self.matrix_parameters + 12.0 * attending * width * sequence_length
