"""The sizes that define a decoder, checked once, before any memory is taken."""

from __future__ import annotations

from dataclasses import dataclass

from longhaul_core.errors import InvalidArgument
from longhaul_core.recipe import TrainerConfig


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """Sizes of a dense decoder; every other part of the trainer reads them from here."""

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
            for name in ("vocabulary_size", "hidden_size", "layers", "heads", "kv_heads", "ffn_size", "context_length")
            if getattr(self, name) < 1
        ]
        if wrong:
            return wrong
        if self.hidden_size % self.heads:
            wrong.append(("model.heads", f"{self.heads} does not divide hidden_size {self.hidden_size}"))
        elif self.head_size % 2:
            wrong.append(("model.heads", f"head size {self.head_size} is odd; rotary positions need pairs"))
        if self.heads % self.kv_heads:
            wrong.append(("model.kv_heads", f"{self.kv_heads} does not divide heads {self.heads}"))
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
        return cls(
            vocabulary_size=model.vocabulary_size or vocabulary_size,
            hidden_size=model.hidden_size,
            layers=model.layers,
            heads=model.heads,
            kv_heads=model.kv_heads,
            ffn_size=model.ffn_size,
            context_length=config.data.sequence_length,
            rope_theta=model.rope_theta,
            norm_epsilon=model.norm_epsilon,
            tied_embeddings=model.tied_embeddings,
            init_std=model.init_std,
        )

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.heads

    @property
    def matrix_parameters(self) -> int:
        """Parameters that take part in matrix products a token; the output projection counts even when tied."""
        attention = self.hidden_size * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        return (
            self.layers * (attention + 3 * self.hidden_size * self.ffn_size) + self.vocabulary_size * self.hidden_size
        )

    @property
    def parameters(self) -> int:
        """All parameters, each counted once."""
        norms = (2 * self.layers + 1) * self.hidden_size
        untied = 0 if self.tied_embeddings else self.vocabulary_size * self.hidden_size
        return self.matrix_parameters + norms + untied

    def flops_per_token(self, sequence_length: int) -> float:
        """Training FLOPs a token: 6·N_mm + 12·L·d·S (PaLM, appendix B)."""
        return 6.0 * self.matrix_parameters + 12.0 * self.layers * self.hidden_size * sequence_length
