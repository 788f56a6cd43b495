from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from longhaul_core.errors import FailedPrecondition, InvalidArgument
from longhaul_core.recipe import Activation, HybridConfig, ModelConfig, MoeConfig, Norm, Position, TrainerConfig
from longhaul_trainer.model import Decoder, DecoderShape
from longhaul_trainer.model.huggingface import (
    from_huggingface,
    huggingface_config,
    shape_from_huggingface,
    to_huggingface,
)
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

BASE: dict[str, Any] = {
    "vocabulary_size": 97,
    "hidden_size": 48,
    "layers": 4,
    "heads": 6,
    "kv_heads": 2,
    "ffn_size": 80,
    "context_length": 64,
    "rope_theta": 5e4,
}
GPT2: dict[str, Any] = {
    "kv_heads": 6,
    "norm": Norm.LAYERNORM,
    "activation": Activation.GELU_TANH,
    "position": Position.LEARNED,
    "attention_bias": True,
    "ffn_bias": True,
}
MOE = MoeConfig(experts=6, experts_per_token=2, expert_size=24, balance_loss=0.01)
HYBRID = HybridConfig(attention_every=2, attention_offset=1, heads=6, groups=2, state_size=8, chunk=16)

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama untied with biases": ("llama", {"tied_embeddings": False, "attention_bias": True, "ffn_bias": True}),
    "llama multi-query": ("llama", {"kv_heads": 1}),
    "llama yarn": ("llama", {"yarn_factor": 4.0, "yarn_original_context": 16}),
    "mistral": ("mistral", {"sliding_window": 9, "tied_embeddings": False}),
    "smollm3": ("smollm3", {"nope_every": 4, "norm_epsilon": 1e-6}),
    "qwen3": ("qwen3", {"qk_norm": True, "head_dimension": 16}),
    "qwen3 windows": ("qwen3", {"qk_norm": True, "sliding_window": 7, "full_attention_every": 2}),
    "qwen3-moe": ("qwen3_moe", {"qk_norm": True, "tied_embeddings": False, "moe": MOE}),
    "qwen3-moe dense first": (
        "qwen3_moe",
        {"qk_norm": True, "moe": MOE.model_copy(update={"first_dense_layers": 1, "normalise_top_k": False})},
    ),
    "gpt2": ("gpt2", GPT2),
    "bamba": ("bamba", {"rotary_fraction": 0.5, "hybrid": HYBRID, "tied_embeddings": False}),
}


def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + 0.1)


def logits_of_both(decoder: Decoder, reference: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(0, 97, (3, 50), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return decoder.eval()(tokens, torch.arange(50).expand(3, 50)), reference.eval()(input_ids=tokens).logits


@pytest.mark.parametrize("case", FAMILIES)
def test_random_parameters_give_the_logits_of_transformers_both_ways(case: str, tmp_path: Path) -> None:
    kind, choices = FAMILIES[case]
    shape = DecoderShape(**{**BASE, **choices})
    decoder = Decoder(shape)
    randomise(decoder)
    config = huggingface_config(shape, eos_id=0, dtype="float32")
    assert config["model_type"] == kind
    AutoConfig.for_model(**config).save_pretrained(tmp_path)
    state = {name: tensor.contiguous() for name, tensor in to_huggingface(decoder.state_dict(), shape).items()}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    reference, news = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True, attn_implementation="sdpa"
    )
    assert not news["unexpected_keys"]
    assert not news["missing_keys"]
    ours, theirs = logits_of_both(decoder, reference)
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()

    randomise(reference, seed=2)
    reference.save_pretrained(tmp_path / "back")
    found = AutoConfig.from_pretrained(tmp_path / "back").to_dict()
    again = shape_from_huggingface(found)
    assert again.parameters == shape.parameters
    back = Decoder(again)
    stored = from_huggingface(load_file(tmp_path / "back" / "model.safetensors"), again)
    missing, unexpected = back.load_state_dict(stored, strict=False)
    assert all(name.endswith((".gate.load", ".gate.bias")) for name in missing)
    assert not unexpected
    ours, theirs = logits_of_both(back, reference)
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize(
    ("choices", "word"),
    [
        ({"position": Position.ALIBI}, "position"),
        ({"logit_softcap": 30.0}, "logit_softcap"),
        ({"activation": Activation.RELU2}, "activation"),
        ({"qk_norm": True, "nope_every": 2}, "qk_norm"),
        ({"qk_norm": True, "moe": MOE.model_copy(update={"shared_expert_size": 8})}, "shared_expert_size"),
        ({"hybrid": HYBRID}, "hybrid.attention_every"),
    ],
)
def test_model_that_transformers_cannot_compute_is_refused(choices: dict[str, Any], word: str) -> None:
    with pytest.raises(FailedPrecondition, match=word) as caught:
        huggingface_config(DecoderShape(**{**BASE, **choices}), eos_id=0, dtype="float32")
    assert caught.value.reason == "NO_HUGGINGFACE_CLASS"


def test_configuration_that_cannot_be_continued_is_refused_by_field() -> None:
    config = huggingface_config(DecoderShape(**BASE), eos_id=0, dtype="float32")
    for field, value in (("model_type", "t5"), ("hidden_act", "relu"), ("rope_parameters", {"rope_type": "longrope"})):
        with pytest.raises(InvalidArgument, match=field):
            shape_from_huggingface({**config, field: value})


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("llama-3-8b", 8_030_261_248),
        ("smollm3-3b", 3_075_098_624),
        ("gpt2-124m", 124_439_808),
        ("qwen3-30b-a3b", 30_532_122_624),
        ("baseline-1b", 1_235_814_400),
        ("tiny", None),
        ("tiny-moe", None),
        ("tiny-hybrid", None),
        ("tiny-gpt2", None),
    ],
)
def test_preset_has_its_exact_number_of_parameters(preset: str, parameters: int | None) -> None:
    model = ModelConfig.model_validate({"preset": preset})
    config = TrainerConfig(model=model).model_copy(update={"data": TrainerConfig().data})
    config = config.model_copy(update={"data": config.data.model_copy(update={"sequence_length": 1024})})
    shape = DecoderShape.resolve(config, model.vocabulary_size or 96)
    with torch.device("meta"):
        counted = sum(parameter.numel() for parameter in Decoder(shape).parameters())
    assert shape.parameters == counted
    assert parameters is None or counted == parameters
    assert DecoderShape.from_document(shape.to_document()) == shape
