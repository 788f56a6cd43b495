"""Names and layouts of the weights in transformers' files, from ours and back."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from longhaul_trainer.model.huggingface.families import family_of
from longhaul_trainer.model.shape import DecoderShape

_HEAD = "lm_head.weight"
_STACKED = re.compile(r"(layers\.\d+\.mlp\.experts)\.(gate_proj|up_proj|down_proj)")
_SINGLE = re.compile(r"(layers\.\d+\.mlp\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)\.weight")
_OURS_ONLY = (".gate.load", ".gate.bias")

_BAMBA = (
    (".post_attention_layernorm.", ".pre_ff_layernorm."),
    (".mlp.", ".feed_forward."),
    ("norm.weight", "final_layernorm.weight"),
)
_GPT2_MODULES = {
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "self_attn.o_proj": "attn.c_proj",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
}
_GPT2_TOP = {
    "embed_tokens.weight": "transformer.wte.weight",
    "embed_positions.weight": "transformer.wpe.weight",
    "norm.weight": "transformer.ln_f.weight",
    "norm.bias": "transformer.ln_f.bias",
}


def to_huggingface(state: Mapping[str, Tensor], shape: DecoderShape) -> dict[str, Tensor]:
    """The tensors of transformers' files; a tied head is not stored, as there.

    Raises:
        FailedPrecondition: transformers has no class for this shape.
    """
    kind = family_of(shape).model_type
    kept = {name: tensor for name, tensor in state.items() if not name.endswith(_OURS_ONLY)}
    if kind == "gpt2":
        return _to_gpt2(kept, shape)
    renamed: dict[str, Tensor] = {}
    for name, tensor in kept.items():
        if stacked := _STACKED.fullmatch(name):
            prefix, matrix = stacked.groups()
            renamed |= {f"model.{prefix}.{e}.{matrix}.weight": one for e, one in enumerate(tensor.unbind())}
        elif name == _HEAD:
            renamed |= {} if shape.tied_embeddings else {name: tensor}
        else:
            renamed["model." + (_to_bamba(name) if kind == "bamba" else name)] = tensor
    return renamed


def from_huggingface(state: Mapping[str, Tensor], shape: DecoderShape) -> dict[str, Tensor]:
    """Our tensors from those of transformers' files, without what only training knows."""
    kind = family_of(shape).model_type
    if kind == "gpt2":
        return _from_gpt2(state, shape)
    found: dict[str, Tensor] = {}
    stacks: dict[str, dict[int, Tensor]] = {}
    for given, tensor in state.items():
        name = given.removeprefix("model.")
        if single := _SINGLE.fullmatch(name):
            prefix, expert, matrix = single.groups()
            stacks.setdefault(f"{prefix}.{matrix}", {})[int(expert)] = tensor
        elif name != _HEAD or not shape.tied_embeddings:
            found[_from_bamba(name) if kind == "bamba" else name] = tensor
    stacked = {name: torch.stack([parts[e] for e in sorted(parts)]) for name, parts in stacks.items()}
    return found | stacked


def _to_bamba(name: str) -> str:
    if not name.startswith("layers."):
        return _BAMBA[2][1] if name == _BAMBA[2][0] else name
    for ours, theirs in _BAMBA[:2]:
        name = name.replace(ours, theirs)
    return name


def _from_bamba(name: str) -> str:
    if not name.startswith("layers."):
        return _BAMBA[2][0] if name == _BAMBA[2][1] else name
    for ours, theirs in _BAMBA[:2]:
        name = name.replace(theirs, ours)
    return name


def _to_gpt2(state: Mapping[str, Tensor], shape: DecoderShape) -> dict[str, Tensor]:
    """GPT-2 stores matrices transposed, and queries, keys and values in one."""
    renamed = {theirs: state[ours] for ours, theirs in _GPT2_TOP.items()}
    for layer in range(shape.layers):
        ours, theirs = f"layers.{layer}", f"transformer.h.{layer}"
        for module, other in _GPT2_MODULES.items():
            for kind in ("weight", "bias"):
                renamed[f"{theirs}.{other}.{kind}"] = _transposed(state[f"{ours}.{module}.{kind}"])
        for kind in ("weight", "bias"):
            joined = torch.cat([state[f"{ours}.self_attn.{part}_proj.{kind}"] for part in "qkv"])
            renamed[f"{theirs}.attn.c_attn.{kind}"] = _transposed(joined)
    return renamed


def _from_gpt2(state: Mapping[str, Tensor], shape: DecoderShape) -> dict[str, Tensor]:
    given = {name if name.startswith("transformer.") else f"transformer.{name}": t for name, t in state.items()}
    found = {ours: given[theirs] for ours, theirs in _GPT2_TOP.items()}
    for layer in range(shape.layers):
        ours, theirs = f"layers.{layer}", f"transformer.h.{layer}"
        for kind in ("weight", "bias"):
            for module, other in _GPT2_MODULES.items():
                found[f"{ours}.{module}.{kind}"] = _transposed(given[f"{theirs}.{other}.{kind}"])
            joined = _transposed(given[f"{theirs}.attn.c_attn.{kind}"])
            for part, tensor in zip("qkv", joined.chunk(3), strict=True):
                found[f"{ours}.self_attn.{part}_proj.{kind}"] = tensor.contiguous()
    return found


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.t().contiguous() if tensor.dim() == 2 else tensor
