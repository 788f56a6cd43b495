"""The architecture of a model, every choice of it a recipe value."""

from enum import StrEnum
from typing import Any, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from longhaul_core.recipe.presets import MODEL_PRESETS
from longhaul_core.recipe.section import Section


class Norm(StrEnum):
    """Normalisation before each part of a block and before the output projection."""

    RMSNORM = "rmsnorm"
    LAYERNORM = "layernorm"


class Activation(StrEnum):
    """Non-linearity of the feed-forward block; the first two are gated."""

    SWIGLU = "swiglu"
    GEGLU = "geglu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    RELU = "relu"
    RELU2 = "relu2"
    SILU = "silu"

    @property
    def gated(self) -> bool:
        """Whether a second projection multiplies the activated one."""
        return self in (Activation.SWIGLU, Activation.GEGLU)


class Position(StrEnum):
    """How attention learns where a token is."""

    ROPE = "rope"
    NONE = "none"
    LEARNED = "learned"
    ALIBI = "alibi"


class Initialisation(StrEnum):
    """Initial values of matrices; every scheme depends on seed, name and element index only."""

    NORMAL = "normal"
    DEPTH_SCALED = "depth_scaled"
    T_FIXUP = "t_fixup"


class MoeConfig(Section):
    """Mixture of experts in place of the feed-forward block."""

    experts: NonNegativeInt = Field(0, description="0: dense")
    experts_per_token: PositiveInt = 2
    expert_size: PositiveInt = Field(256, description="hidden width of one expert")
    shared_expert_size: NonNegativeInt = Field(0, description="width of the expert that every token visits; 0: none")
    every: PositiveInt = Field(1, description="every n-th layer has experts, the others are dense")
    first_dense_layers: NonNegativeInt = 0
    normalise_top_k: bool = Field(True, description="weights of the chosen experts sum to one")
    balance_loss: NonNegativeFloat = Field(0.0, description="weight of the balance loss over the global batch")
    balance_bias_rate: NonNegativeFloat = Field(0.0, description="step of the selection bias of each expert; 0: off")

    @model_validator(mode="after")
    def _check_experts(self) -> Self:
        if self.experts and self.experts_per_token > self.experts:
            raise ValueError(f"experts_per_token {self.experts_per_token} is more than experts {self.experts}")
        return self


class HybridConfig(Section):
    """State-space layers (Mamba-2) in place of attention, in a pattern."""

    attention_every: NonNegativeInt = Field(0, description="every n-th layer attends, the others are Mamba-2; 0: all")
    attention_offset: NonNegativeInt = Field(0, description="index of the first attention layer")
    heads: PositiveInt = 8
    groups: PositiveInt = 1
    state_size: PositiveInt = 64
    expand: PositiveInt = 2
    convolution: PositiveInt = 4
    chunk: PositiveInt = 128

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.heads % self.groups:
            raise ValueError(f"heads {self.heads} is not a multiple of groups {self.groups}")
        return self


class ModelConfig(Section):
    """A decoder. A preset fills in what is not given; the presets are listed in docs/training.md."""

    preset: str = Field("", description="published or test shape that fills in what is not given")
    hidden_size: PositiveInt = 128
    layers: PositiveInt = 4
    heads: PositiveInt = 4
    kv_heads: PositiveInt = Field(2, description="equal to heads: multi-head, 1: multi-query, between: grouped-query")
    head_dimension: NonNegativeInt = Field(0, description="0: hidden_size / heads")
    ffn_size: PositiveInt = 384
    vocabulary_size: NonNegativeInt = Field(0, description="0: that of the token set's tokenizer")
    norm: Norm = Norm.RMSNORM
    norm_epsilon: PositiveFloat = 1e-5
    qk_norm: bool = Field(False, description="queries and keys are normalised a head")
    activation: Activation = Activation.SWIGLU
    position: Position = Position.ROPE
    rope_theta: PositiveFloat = 50_000.0
    rotary_fraction: float = Field(1.0, gt=0, le=1, description="share of a head's channels that is rotated")
    yarn_factor: NonNegativeFloat = Field(0.0, description="context extension by YaRN; 0: off")
    yarn_original_context: NonNegativeInt = Field(0, description="context length before the extension")
    nope_every: NonNegativeInt = Field(0, description="every n-th layer has no rotary positions; 0: none")
    sliding_window: NonNegativeInt = Field(0, description="tokens that a layer looks back; 0: all")
    full_attention_every: NonNegativeInt = Field(0, description="every n-th layer ignores the sliding window")
    attention_bias: bool = False
    ffn_bias: bool = False
    dropout: float = Field(0.0, ge=0, lt=1, description="of embeddings, attention weights and residual additions")
    logit_softcap: NonNegativeFloat = Field(0.0, description="logits are c·tanh(logits / c); 0: off")
    tied_embeddings: bool = True
    init: Initialisation = Initialisation.NORMAL
    init_std: PositiveFloat = 0.02
    moe: MoeConfig = MoeConfig()
    hybrid: HybridConfig = HybridConfig()

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not given.get("preset"):
            return given
        name = given["preset"]
        if name not in MODEL_PRESETS:
            raise ValueError(f"there is no preset {name!r}; known: {', '.join(MODEL_PRESETS)}")
        return {**MODEL_PRESETS[name], **given}

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        if not self.head_dimension and self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of heads {self.heads}")
        if self.position is Position.ROPE and self.rotary_size % 2:
            raise ValueError(f"head size {self.head_size} is odd: rotary positions need an even one")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        if self.yarn_factor and not self.yarn_original_context:
            raise ValueError("yarn_factor needs yarn_original_context")
        return self

    @property
    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.head_dimension or self.hidden_size // self.heads

    @property
    def rotary_size(self) -> int:
        """Channels of a head that rotary positions turn."""
        return int(self.head_size * self.rotary_fraction)
