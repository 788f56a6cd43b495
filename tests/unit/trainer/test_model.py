from __future__ import annotations

import numpy as np
import pytest
import torch
from longhaul_core.errors import InvalidArgument
from longhaul_trainer.model import Decoder, DecoderShape
from longhaul_trainer.model.huggingface import from_huggingface, huggingface_config, to_huggingface
from longhaul_trainer.model.initialise import initialise, normal_range
from longhaul_trainer.model.mask import document_mask
from transformers import LlamaConfig, LlamaForCausalLM

SHAPE = DecoderShape(
    vocabulary_size=97, hidden_size=48, layers=3, heads=6, kv_heads=2, ffn_size=80, context_length=64, rope_theta=5e4
)


def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + 0.1)


def llama(shape: DecoderShape) -> LlamaForCausalLM:
    config = huggingface_config(shape, eos_id=0, dtype="float32")
    return LlamaForCausalLM(LlamaConfig.from_dict(config)).eval()


@pytest.mark.parametrize("tied", [True, False])
def test_decoder_with_random_parameters_gives_the_logits_of_transformers_llama(tied: bool) -> None:
    shape = DecoderShape(97, 48, 3, 6, 2, 80, 64, 5e4, 1e-5, tied)
    decoder, reference = Decoder(shape), llama(shape)
    randomise(decoder)
    missing, unexpected = reference.load_state_dict(to_huggingface(decoder.state_dict(), shape), strict=False)
    assert set(missing) <= {"lm_head.weight"}
    assert unexpected == []
    tokens = torch.randint(0, 97, (3, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = decoder(tokens, torch.arange(64).expand(3, 64))
        theirs = reference(input_ids=tokens).logits
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_decoder_on_packed_documents_gives_the_logits_of_each_document_alone() -> None:
    decoder, reference = Decoder(SHAPE), llama(SHAPE)
    randomise(decoder)
    reference.load_state_dict(to_huggingface(decoder.state_dict(), SHAPE), strict=False)
    tokens = torch.randint(0, 97, (1, 50), generator=torch.Generator().manual_seed(2))
    lengths = [13, 1, 30, 6]
    positions = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)
    with torch.no_grad():
        packed = decoder(tokens, positions)[0]
        alone = torch.cat([reference(input_ids=part).logits[0] for part in tokens.split(lengths, dim=1)])
    assert (packed - alone).abs().max() <= 1e-5 * alone.abs().max()


def test_huggingface_names_go_both_ways() -> None:
    state = Decoder(SHAPE).state_dict()
    there_and_back = from_huggingface(to_huggingface(state, SHAPE), SHAPE)
    assert there_and_back.keys() == state.keys()
    assert all(torch.equal(there_and_back[name], state[name]) for name in state)


def test_document_mask_is_absent_only_when_each_row_is_one_document() -> None:
    assert document_mask(torch.arange(5).expand(2, 5)) is None
    packed = torch.tensor([[0, 1, 0, 1, 2], [0, 1, 2, 3, 4]])
    mask = document_mask(packed)
    assert mask is not None
    assert mask[0, 0, 2].tolist() == [False, False, True, False, False]
    assert mask[1, 0, 2].tolist() == [True, True, True, False, False]


@pytest.mark.parametrize("tied", [True, False])
def test_parameter_count_of_the_shape_is_that_of_the_module(tied: bool) -> None:
    shape = DecoderShape(97, 48, 3, 6, 2, 80, 64, tied_embeddings=tied)
    assert shape.parameters == sum(parameter.numel() for parameter in Decoder(shape).parameters())


def test_parameter_count_of_llama_3_8b_is_exact() -> None:
    shape = DecoderShape(128_256, 4096, 32, 32, 8, 14_336, 8192, 5e5, tied_embeddings=False)
    assert shape.parameters == 8_030_261_248


@pytest.mark.parametrize(
    ("field", "sizes"),
    [
        ("model.heads", {"heads": 5, "kv_heads": 1}),
        ("model.kv_heads", {"kv_heads": 4}),
        ("model.layers", {"layers": 0}),
    ],
)
def test_shape_with_sizes_that_do_not_fit_names_the_field(field: str, sizes: dict[str, int]) -> None:
    good = {"vocabulary_size": 97, "hidden_size": 48, "layers": 3, "heads": 6, "kv_heads": 2, "ffn_size": 8}
    with pytest.raises(InvalidArgument) as raised:
        DecoderShape(**{**good, "context_length": 16, **sizes})
    assert [name for name, _ in raised.value.violations] == [field]


@pytest.mark.parametrize(("start", "count"), [(0, 40), (1, 17), (7, 1), (4, 8), (39, 1)])
def test_normal_range_of_a_slice_equals_the_slice_of_the_whole(start: int, count: int) -> None:
    whole = normal_range(3, "layers.0.mlp.up_proj.weight", 0, 40)
    assert np.array_equal(normal_range(3, "layers.0.mlp.up_proj.weight", start, count), whole[start : start + count])


def test_normal_range_is_standard_normal_and_differs_by_name_and_seed() -> None:
    values = normal_range(1, "a", 0, 200_000).astype(np.float64)
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01
    assert abs((values**4).mean() - 3) < 0.1
    assert abs(np.corrcoef(values, normal_range(1, "b", 0, 200_000))[0, 1]) < 0.01
    assert abs(np.corrcoef(values, normal_range(2, "a", 0, 200_000))[0, 1]) < 0.01


def test_initialise_depends_on_the_seed_alone() -> None:
    first, second = Decoder(SHAPE), Decoder(SHAPE)
    randomise(second)
    for decoder in (first, second):
        initialise(decoder, seed=5, shape=SHAPE)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.equal(first.norm.weight, torch.ones(48))
    assert abs(float(first.embed_tokens.weight.detach().std()) - 0.02) < 1e-3
