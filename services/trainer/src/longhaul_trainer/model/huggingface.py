"""Names and configuration of the same decoder as transformers' LlamaForCausalLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from longhaul_trainer.model.shape import DecoderShape

_HEAD = "lm_head.weight"
_PREFIX = "model."


def to_huggingface(state: Mapping[str, Tensor], shape: DecoderShape) -> dict[str, Tensor]:
    """Renames our parameters to Llama's; a tied head is not stored, as in transformers."""
    renamed = {_PREFIX + name: tensor for name, tensor in state.items() if name != _HEAD}
    return renamed if shape.tied_embeddings else {**renamed, _HEAD: state[_HEAD]}


def from_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames Llama's parameters to ours."""
    return {name.removeprefix(_PREFIX): tensor for name, tensor in state.items()}


def huggingface_config(shape: DecoderShape, *, eos_id: int, dtype: str) -> dict[str, Any]:
    """The config.json that makes transformers build this decoder."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocabulary_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.ffn_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "max_position_embeddings": shape.context_length,
        "rms_norm_eps": shape.norm_epsilon,
        "rope_theta": shape.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "tie_word_embeddings": shape.tied_embeddings,
        "initializer_range": shape.init_std,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": eos_id,
        "eos_token_id": eos_id,
        "pad_token_id": None,
        "torch_dtype": dtype,
    }
