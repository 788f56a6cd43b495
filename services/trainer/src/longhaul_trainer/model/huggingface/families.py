"""Which class of transformers computes what a shape asks for, to the last detail."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from longhaul_core.errors import FailedPrecondition
from longhaul_core.recipe import Activation, Norm, Position

from longhaul_trainer.model.shape import DecoderShape


class Feature(StrEnum):
    """What a shape may have beyond a plain Llama: rotary positions, RMS norm, SwiGLU, no bias."""

    LAYER_NORM = "norm: layernorm"
    LEARNED = "position: learned"
    OTHER_POSITION = "position: none or alibi"
    GELU_TANH = "activation: gelu_tanh"
    OTHER_ACTIVATION = "this activation"
    QK_NORM = "qk_norm"
    NOPE = "nope_every"
    WINDOW = "sliding_window in every layer"
    SOME_WINDOWS = "sliding_window in some layers"
    EXPERTS = "moe.experts"
    SHARED_EXPERT = "moe.shared_expert_size"
    BALANCE_BIAS = "moe.balance_bias_rate"
    MAMBA = "hybrid.attention_every"
    HALF_ROTARY = "rotary_fraction: 0.5"
    PART_ROTARY = "rotary_fraction"
    YARN = "yarn_factor"
    SOFTCAP = "logit_softcap"
    ATTENTION_BIAS = "attention_bias"
    FFN_BIAS = "ffn_bias"
    UNTIED = "tied_embeddings: false"
    GROUPED = "kv_heads below heads"
    HEAD_DIMENSION = "head_dimension"


@dataclass(frozen=True, slots=True)
class Family:
    """A model type of transformers: what it must have, and what it may have."""

    model_type: str
    architecture: str
    required: frozenset[Feature]
    allowed: frozenset[Feature]

    def lacks(self, features: frozenset[Feature]) -> frozenset[Feature]:
        """What keeps these features from being this family."""
        return (features - self.required - self.allowed) | (self.required - features)


_F = Feature
_COMMON = {_F.YARN, _F.UNTIED, _F.GROUPED, _F.HEAD_DIMENSION}


def _family(model_type: str, architecture: str, required: set[Feature], allowed: set[Feature]) -> Family:
    return Family(model_type, architecture, frozenset(required), frozenset(allowed))


FAMILIES = (
    _family("llama", "LlamaForCausalLM", set(), {*_COMMON, _F.ATTENTION_BIAS, _F.FFN_BIAS}),
    _family("mistral", "MistralForCausalLM", {_F.WINDOW}, _COMMON),
    _family("smollm3", "SmolLM3ForCausalLM", {_F.NOPE}, {*_COMMON, _F.ATTENTION_BIAS, _F.FFN_BIAS, _F.SOME_WINDOWS}),
    _family("qwen3", "Qwen3ForCausalLM", {_F.QK_NORM}, {*_COMMON, _F.ATTENTION_BIAS, _F.WINDOW, _F.SOME_WINDOWS}),
    _family("qwen3_moe", "Qwen3MoeForCausalLM", {_F.QK_NORM, _F.EXPERTS}, {*_COMMON, _F.ATTENTION_BIAS}),
    _family(
        "bamba",
        "BambaForCausalLM",
        {_F.MAMBA, _F.HALF_ROTARY},
        {_F.UNTIED, _F.GROUPED, _F.HEAD_DIMENSION, _F.ATTENTION_BIAS, _F.FFN_BIAS},
    ),
    _family(
        "gpt2",
        "GPT2LMHeadModel",
        {_F.LAYER_NORM, _F.LEARNED, _F.GELU_TANH, _F.ATTENTION_BIAS, _F.FFN_BIAS},
        set(),
    ),
)


def features_of(shape: DecoderShape) -> frozenset[Feature]:
    """What the shape has beyond a plain Llama."""
    windows = [shape.window(layer) > 0 for layer in range(shape.layers)]
    gelu_tanh = shape.activation is Activation.GELU_TANH
    rotary = shape.position is Position.ROPE
    has = {
        Feature.LAYER_NORM: shape.norm is Norm.LAYERNORM,
        Feature.LEARNED: shape.position is Position.LEARNED,
        Feature.OTHER_POSITION: shape.position in (Position.NONE, Position.ALIBI),
        Feature.GELU_TANH: gelu_tanh,
        Feature.OTHER_ACTIVATION: shape.activation is not Activation.SWIGLU and not gelu_tanh,
        Feature.QK_NORM: shape.qk_norm,
        Feature.NOPE: rotary and shape.nope_every > 0,
        Feature.WINDOW: all(windows),
        Feature.SOME_WINDOWS: any(windows) and not all(windows),
        Feature.EXPERTS: shape.moe.experts > 0,
        Feature.SHARED_EXPERT: shape.moe.experts > 0 and shape.moe.shared_expert_size > 0,
        Feature.BALANCE_BIAS: shape.moe.experts > 0 and shape.moe.balance_bias_rate > 0,
        Feature.MAMBA: shape.has_mamba,
        Feature.HALF_ROTARY: rotary and shape.rotary_fraction == 0.5,
        Feature.PART_ROTARY: rotary and shape.rotary_fraction not in (0.5, 1.0),
        Feature.YARN: rotary and shape.yarn_factor > 0,
        Feature.SOFTCAP: shape.logit_softcap > 0,
        Feature.ATTENTION_BIAS: shape.attention_bias,
        Feature.FFN_BIAS: shape.ffn_bias,
        Feature.UNTIED: not shape.tied_embeddings,
        Feature.GROUPED: shape.kv_heads != shape.heads,
        Feature.HEAD_DIMENSION: shape.head_size * shape.heads != shape.hidden_size,
    }
    return frozenset(feature for feature, present in has.items() if present)


def family_of(shape: DecoderShape) -> Family:
    """The class of transformers that computes the same logits.

    Raises:
        FailedPrecondition: NO_HUGGINGFACE_CLASS, naming what stands against the nearest class.
    """
    features = features_of(shape)
    nearest = min(FAMILIES, key=lambda family: len(family.lacks(features)))
    lacking = sorted(nearest.lacks(features))
    if not lacking:
        return nearest
    raise FailedPrecondition(
        f"No class of transformers computes this model; the nearest, {nearest.architecture}, differs in "
        f"{', '.join(lacking)}",
        reason="NO_HUGGINGFACE_CLASS",
        metadata={"nearest": nearest.architecture, "differs": ", ".join(lacking)},
        action="score and continue the checkpoint here, or train a shape that transformers has",
    )
