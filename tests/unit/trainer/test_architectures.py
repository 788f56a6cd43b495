from __future__ import annotations

from typing import Any

import pytest
import torch
from longhaul_core.recipe import Activation, HybridConfig, Initialisation, LossConfig, MoeConfig, Norm, Position
from longhaul_trainer.loop.loss import summed_loss
from longhaul_trainer.model import Decoder, DecoderShape
from longhaul_trainer.model.flex import attend, block_mask
from longhaul_trainer.model.float8 import Float8Product
from longhaul_trainer.model.initialise import initialise, standard_deviation
from longhaul_trainer.model.mask import alibi_slopes, document_mask
from longhaul_trainer.model.moe import MixtureOfExperts
from torch.nn import functional

BASE: dict[str, Any] = {
    "vocabulary_size": 61,
    "hidden_size": 32,
    "layers": 4,
    "heads": 4,
    "kv_heads": 2,
    "ffn_size": 48,
    "context_length": 64,
}
MOE = MoeConfig(experts=6, experts_per_token=2, expert_size=16, shared_expert_size=24, balance_loss=0.1)
CHOICES: dict[str, dict[str, Any]] = {
    "alibi": {"position": Position.ALIBI},
    "no positions": {"position": Position.NONE},
    "learned": {"position": Position.LEARNED},
    "window": {"sliding_window": 5, "full_attention_every": 4, "nope_every": 4},
    "layer norm": {"norm": Norm.LAYERNORM, "qk_norm": True, "activation": Activation.RELU2},
    "biases": {"attention_bias": True, "ffn_bias": True, "activation": Activation.GEGLU},
    "experts": {"moe": MOE},
    "hybrid": {"hybrid": HybridConfig(attention_every=2, heads=4, groups=2, state_size=8, chunk=7)},
}


def make(choices: dict[str, Any]) -> Decoder:
    shape = DecoderShape(**{**BASE, **choices})
    decoder = Decoder(shape)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + 0.1)
    return decoder.eval()


@pytest.mark.parametrize("choice", CHOICES)
def test_packed_documents_are_computed_as_if_each_were_alone(choice: str) -> None:
    decoder = make(CHOICES[choice])
    tokens = torch.randint(0, 61, (1, 50), generator=torch.Generator().manual_seed(2))
    lengths = [13, 1, 30, 6]
    positions = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)
    with torch.no_grad():
        packed = decoder(tokens, positions)[0]
        parts = zip(tokens.split(lengths, dim=1), positions.split(lengths, dim=1), strict=True)
        alone = torch.cat([decoder(part, place)[0] for part, place in parts])
    assert (packed - alone).abs().max() <= 1e-5 * alone.abs().max()


@pytest.mark.parametrize("choice", CHOICES)
def test_parameter_count_of_every_architecture_is_exact(choice: str) -> None:
    decoder = make(CHOICES[choice])
    assert decoder.shape.parameters == sum(parameter.numel() for parameter in decoder.parameters())


def test_sliding_window_forgets_what_lies_before_it() -> None:
    decoder = make({"sliding_window": 3, "layers": 2})
    tokens = torch.randint(0, 61, (1, 20), generator=torch.Generator().manual_seed(3))
    changed = tokens.clone()
    changed[0, 0] = (changed[0, 0] + 1) % 61
    positions = torch.arange(20).unsqueeze(0)
    with torch.no_grad():
        difference = (decoder(tokens, positions) - decoder(changed, positions)).abs().amax(dim=-1)[0]
    assert difference[4] > 0
    assert difference[5:].max() == 0


def test_alibi_slopes_are_those_of_the_paper() -> None:
    assert alibi_slopes(8).tolist() == [2.0**-n for n in range(1, 9)]
    assert alibi_slopes(6).tolist() == pytest.approx([2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])


def test_soft_cap_bounds_the_logits() -> None:
    decoder = make({"logit_softcap": 2.0})
    free = make({})
    tokens, positions = torch.randint(0, 61, (1, 9)), torch.arange(9).unsqueeze(0)
    with torch.no_grad():
        capped, logits = decoder(tokens, positions), free(tokens, positions)
    torch.testing.assert_close(capped, 2 * torch.tanh(logits / 2))


def test_z_loss_and_smoothing_are_added_over_valid_tokens_only() -> None:
    logits = torch.randn(1, 5, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, -100, 3, 4, -100]])
    plain = functional.cross_entropy(logits[0, [0, 2, 3]], labels[0, [0, 2, 3]], reduction="sum")
    partition = logits[0, [0, 2, 3]].logsumexp(-1).square().sum()
    torch.testing.assert_close(summed_loss(logits, labels), plain)
    torch.testing.assert_close(summed_loss(logits, labels, LossConfig(z_loss=0.5)), plain + 0.5 * partition)
    assert summed_loss(logits, labels, LossConfig(label_smoothing=0.1)) != plain


def test_experts_are_counted_once_though_activations_are_computed_again() -> None:
    block = make({"moe": MOE}).layers["0"].mlp
    assert isinstance(block, MixtureOfExperts)
    block.train()
    hidden = torch.randn(2, 10, 32, generator=torch.Generator().manual_seed(1), requires_grad=True)
    torch.utils.checkpoint.checkpoint(block, hidden, use_reentrant=False).sum().backward()
    assert float(block.gate.counts.sum()) == 2 * 10 * 2
    block.gate.settle(block.gate.counts.clone(), bias_rate=0.1)
    busiest = int(block.gate.load.argmax())
    assert float(block.gate.load.sum()) == pytest.approx(1.0)
    assert float(block.gate.bias[busiest]) == pytest.approx(-0.1)
    assert float(block.gate.counts.sum()) == 0


def test_balance_loss_pushes_the_router_away_from_busy_experts() -> None:
    block = make({"moe": MOE}).layers["0"].mlp
    assert isinstance(block, MixtureOfExperts)
    block.train()
    block.gate.load.copy_(torch.tensor([0.9, 0.02, 0.02, 0.02, 0.02, 0.02]))
    hidden = torch.randn(1, 40, 32, generator=torch.Generator().manual_seed(1))
    for parameter in block.experts.parameters():
        parameter.data.zero_()
    for parameter in block.shared_expert.parameters():  # type: ignore[union-attr]
        parameter.data.zero_()

    def busy() -> float:
        return float((hidden[0] @ block.gate.weight.t()).softmax(-1)[:, 0].mean())

    before = busy()
    block(hidden).sum().backward()
    with torch.no_grad():
        block.gate.weight -= 0.05 * block.gate.weight.grad  # type: ignore[operator]
    assert busy() < before


@pytest.mark.parametrize("window", [0, 7])
def test_fast_attention_path_equals_the_portable_one(window: int) -> None:
    generator = torch.Generator().manual_seed(0)
    positions = torch.cat([torch.arange(length) for length in (13, 1, 30, 20)]).unsqueeze(0)
    queries = torch.randn(1, 4, 64, 16, generator=generator)
    keys, values = (torch.randn(1, 2, 64, 16, generator=generator) for _ in range(2))
    fast = attend(queries, keys, values, block_mask(positions, window, None))
    mask = document_mask(positions, window)
    portable = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(fast, portable, atol=1e-5, rtol=1e-5)


def test_float8_products_are_near_those_in_full_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(64, 32, generator=generator).bfloat16().requires_grad_()
    weight = torch.randn(48, 32, generator=generator).bfloat16().requires_grad_()
    out = Float8Product.apply(rows, weight)
    gradient = torch.randn(64, 48, generator=generator).bfloat16()
    out.backward(gradient)
    assert rows.grad is not None
    assert weight.grad is not None
    for found, wanted in (
        (out, rows.detach().float() @ weight.detach().float().t()),
        (rows.grad, gradient.float() @ weight.detach().float()),
        (weight.grad, gradient.float().t() @ rows.detach().float()),
    ):
        error = (found.float() - wanted).norm() / wanted.norm()
        assert 0 < error < 0.06


@pytest.mark.parametrize("scheme", list(Initialisation))
def test_initialisation_scheme_sets_the_spread_of_each_matrix(scheme: Initialisation) -> None:
    shape = DecoderShape(**{**BASE, "hidden_size": 128, "ffn_size": 256, "init": scheme})
    decoder = Decoder(shape)
    initialise(decoder, 1, shape)
    for name, parameter in decoder.named_parameters():
        if parameter.dim() == 2:
            wanted = standard_deviation(name, tuple(parameter.shape), shape)
            assert float(parameter.detach().std()) == pytest.approx(wanted, rel=0.1), name
    down = standard_deviation("layers.0.mlp.down_proj.weight", (128, 256), shape)
    assert (down < 0.02) == (scheme is Initialisation.DEPTH_SCALED)
