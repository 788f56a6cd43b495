"""config.json of transformers, from a shape and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from longhaul_core.errors import InvalidArgument
from longhaul_core.recipe import Activation, HybridConfig, MoeConfig, Norm, Position

from longhaul_trainer.model.huggingface.families import FAMILIES, Family, family_of
from longhaul_trainer.model.shape import DecoderShape


def huggingface_config(shape: DecoderShape, *, eos_id: int, dtype: str) -> dict[str, Any]:
    """The config.json that makes transformers build this decoder.

    Raises:
        FailedPrecondition: transformers has no class for it.
    """
    family = family_of(shape)
    config = _gpt2(shape) if family.model_type == "gpt2" else _llama_like(shape, family)
    return {
        **config,
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": shape.vocabulary_size,
        "tie_word_embeddings": shape.tied_embeddings,
        "initializer_range": shape.init_std,
        "bos_token_id": eos_id,
        "eos_token_id": eos_id,
        "pad_token_id": None,
        "torch_dtype": dtype,
    }


def _llama_like(shape: DecoderShape, family: Family) -> dict[str, Any]:
    config = {
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.ffn_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "max_position_embeddings": shape.context_length,
        "rms_norm_eps": shape.norm_epsilon,
        "rope_theta": shape.rope_theta,
        "rope_parameters": _rope(shape),
        "hidden_act": "silu",
        "attention_bias": shape.attention_bias,
        "mlp_bias": shape.ffn_bias,
        "attention_dropout": shape.dropout,
    }
    layers = range(shape.layers)
    if family.model_type == "mistral":
        config["sliding_window"] = shape.sliding_window
    if family.model_type in ("smollm3", "qwen3"):
        config["use_sliding_window"] = shape.sliding_window > 0
        config["sliding_window"] = shape.sliding_window or None
        config["layer_types"] = ["sliding_attention" if shape.window(layer) else "full_attention" for layer in layers]
    if family.model_type == "smollm3":
        config["no_rope_layer_interval"] = shape.nope_every
        config["no_rope_layers"] = [int(shape.rotates(layer)) for layer in layers]
    if family.model_type == "qwen3_moe":
        config |= _experts(shape)
    if family.model_type == "bamba":
        config |= _hybrid(shape)
    return config


def _rope(shape: DecoderShape) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": shape.rope_theta}
    if shape.rotary_fraction != 1.0:
        rope["partial_rotary_factor"] = shape.rotary_fraction
    if shape.yarn_factor:
        rope |= {
            "rope_type": "yarn",
            "factor": shape.yarn_factor,
            "original_max_position_embeddings": shape.yarn_original_context,
        }
    return rope


def _experts(shape: DecoderShape) -> dict[str, Any]:
    moe = shape.moe
    return {
        "num_experts": moe.experts,
        "num_experts_per_tok": moe.experts_per_token,
        "moe_intermediate_size": moe.expert_size,
        "norm_topk_prob": moe.normalise_top_k,
        "router_aux_loss_coef": moe.balance_loss,
        "decoder_sparse_step": moe.every,
        "mlp_only_layers": list(range(moe.first_dense_layers)),
    }


def _hybrid(shape: DecoderShape) -> dict[str, Any]:
    hybrid = shape.hybrid
    return {
        "attn_layer_indices": [layer for layer in range(shape.layers) if shape.attends(layer)],
        "mamba_n_heads": hybrid.heads,
        "mamba_d_head": shape.mamba_size // hybrid.heads,
        "mamba_n_groups": hybrid.groups,
        "mamba_d_state": hybrid.state_size,
        "mamba_d_conv": hybrid.convolution,
        "mamba_expand": hybrid.expand,
        "mamba_chunk_size": hybrid.chunk,
        "mamba_conv_bias": True,
        "mamba_proj_bias": False,
    }


def _gpt2(shape: DecoderShape) -> dict[str, Any]:
    return {
        "n_embd": shape.hidden_size,
        "n_layer": shape.layers,
        "n_head": shape.heads,
        "n_inner": shape.ffn_size,
        "n_positions": shape.context_length,
        "layer_norm_epsilon": shape.norm_epsilon,
        "activation_function": "gelu_new",
        "resid_pdrop": shape.dropout,
        "embd_pdrop": shape.dropout,
        "attn_pdrop": shape.dropout,
    }


def shape_from_huggingface(config: Mapping[str, Any]) -> DecoderShape:
    """The shape of a config.json.

    Raises:
        InvalidArgument: the model type, or a choice of it, cannot be computed here.
    """
    kind = config.get("model_type")
    if kind not in {family.model_type for family in FAMILIES}:
        known = ", ".join(family.model_type for family in FAMILIES)
        raise _unknown("model_type", f"{kind!r} cannot be continued here; known: {known}")
    return _from_gpt2(config) if kind == "gpt2" else _from_llama_like(kind, config)


def _from_gpt2(config: Mapping[str, Any]) -> DecoderShape:
    if config.get("activation_function", "gelu_new") not in ("gelu_new", "gelu_pytorch_tanh"):
        raise _unknown("activation_function", f"{config['activation_function']!r} is not gelu_new")
    return DecoderShape(
        vocabulary_size=config["vocab_size"],
        hidden_size=config["n_embd"],
        layers=config["n_layer"],
        heads=config["n_head"],
        kv_heads=config["n_head"],
        ffn_size=config.get("n_inner") or 4 * config["n_embd"],
        context_length=config["n_positions"],
        norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
        norm=Norm.LAYERNORM,
        activation=Activation.GELU_TANH,
        position=Position.LEARNED,
        attention_bias=True,
        ffn_bias=True,
        init_std=config.get("initializer_range", 0.02),
    )


def _from_llama_like(kind: str, config: Mapping[str, Any]) -> DecoderShape:
    if config.get("hidden_act", "silu") != "silu":
        raise _unknown("hidden_act", f"{config['hidden_act']!r} is not silu")
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    head = config.get("head_dim") or hidden // heads
    return DecoderShape(
        vocabulary_size=config["vocab_size"],
        hidden_size=hidden,
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        ffn_size=config["intermediate_size"],
        context_length=config["max_position_embeddings"],
        norm_epsilon=config.get("rms_norm_eps", 1e-6),
        tied_embeddings=config.get("tie_word_embeddings", False),
        init_std=config.get("initializer_range", 0.02),
        head_dimension=head if head * heads != hidden else 0,
        qk_norm=kind in ("qwen3", "qwen3_moe"),
        attention_bias=config.get("attention_bias", False),
        ffn_bias=config.get("mlp_bias", False),
        moe=_moe_from(config) if kind == "qwen3_moe" else MoeConfig(),
        hybrid=_hybrid_from(config) if kind == "bamba" else HybridConfig(),
        nope_every=_nope_from(config) if kind == "smollm3" else 0,
        **_rope_from(kind, config),
        **_window_from(kind, config),
    )


def _rope_from(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    found: dict[str, Any] = {"rope_theta": rope.get("rope_theta", config.get("rope_theta", 10_000.0))}
    found["rotary_fraction"] = 0.5 if kind == "bamba" else rope.get("partial_rotary_factor", 1.0)
    scheme = rope.get("rope_type", rope.get("type", "default"))
    if scheme == "yarn":
        found["yarn_factor"] = rope["factor"]
        found["yarn_original_context"] = rope["original_max_position_embeddings"]
    elif scheme != "default":
        raise _unknown("rope_parameters.rope_type", f"{scheme!r} is neither default nor yarn")
    return found


def _window_from(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    window = config.get("sliding_window") or 0
    if not window or (kind != "mistral" and not config.get("use_sliding_window")):
        return {}
    types = config.get("layer_types") or ["sliding_attention"] * config["num_hidden_layers"]
    full = [layer for layer, name in enumerate(types) if name == "full_attention"]
    if not full:
        return {"sliding_window": window}
    every = full[0] + 1
    if full != list(range(every - 1, len(types), every)):
        raise _unknown("layer_types", "the layers with full attention are not every n-th")
    return {"sliding_window": window, "full_attention_every": every}


def _nope_from(config: Mapping[str, Any]) -> int:
    every: int = config.get("no_rope_layer_interval", 4)
    layers = config.get("no_rope_layers")
    if layers and any(bool(rope) == ((layer + 1) % every == 0) for layer, rope in enumerate(layers)):
        raise _unknown("no_rope_layers", "the layers without rotary positions are not every n-th")
    return every


def _moe_from(config: Mapping[str, Any]) -> MoeConfig:
    dense = list(config.get("mlp_only_layers") or [])
    if dense != list(range(len(dense))):
        raise _unknown("mlp_only_layers", "the dense layers are not the first ones")
    return MoeConfig(
        experts=config.get("num_experts") or config["num_local_experts"],
        experts_per_token=config["num_experts_per_tok"],
        expert_size=config["moe_intermediate_size"],
        normalise_top_k=config.get("norm_topk_prob", False),
        balance_loss=config.get("router_aux_loss_coef", 0.0),
        every=config.get("decoder_sparse_step", 1),
        first_dense_layers=len(dense),
    )


def _hybrid_from(config: Mapping[str, Any]) -> HybridConfig:
    kinds = config.get("layer_types") or config.get("layers_block_type") or []
    attending = config.get("attn_layer_indices") or [
        layer for layer, kind in enumerate(kinds) if kind in ("attention", "full_attention")
    ]
    layers = config["num_hidden_layers"]
    if not attending:
        raise _unknown("attn_layer_indices", "a model without any attention layer cannot be continued here")
    every = attending[1] - attending[0] if len(attending) > 1 else layers
    if attending != list(range(attending[0], layers, every)) or attending[0] >= every:
        raise _unknown("attn_layer_indices", "the attention layers are not every n-th")
    if not config.get("mamba_conv_bias", True) or config.get("mamba_proj_bias", False):
        raise _unknown("mamba_conv_bias", "must be true, and mamba_proj_bias false")
    return HybridConfig(
        attention_every=every,
        attention_offset=attending[0],
        heads=config["mamba_n_heads"],
        groups=config["mamba_n_groups"],
        state_size=config["mamba_d_state"],
        expand=config["mamba_expand"],
        convolution=config["mamba_d_conv"],
        chunk=config.get("mamba_chunk_size", 256),
    )


def _unknown(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument(
        f"This Hugging Face configuration cannot be continued here: {field}: {problem}",
        reason="HUGGINGFACE_CONFIG_UNSUPPORTED",
        violations=[(field, problem)],
    )
