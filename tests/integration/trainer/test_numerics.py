from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from longhaul_core.recipe import TrainerConfig
from longhaul_trainer.data.samples import IGNORED_LABEL, Batch
from longhaul_trainer.model import DecoderShape
from longhaul_trainer.model.huggingface import huggingface_config
from longhaul_trainer.optimizer.schedule import learning_rate
from rank_programs import gate, initial_values, run_ranks, train
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

SHAPE = DecoderShape(61, 32, 2, 4, 2, 48, 24, 5e4)
CONFIG = TrainerConfig.model_validate(
    {
        "steps": 20,
        "seed": 9,
        "optimizer": {"learning_rate": 0.01, "gradient_clip": 1.05, "weight_decay": 0.1},
        "schedule": {"warmup_steps": 4, "decay_fraction": 0.3},
        "data": {"sequence_length": 24, "global_batch_size": 8, "micro_batch_size": 2},
    }
)


def make_batches(count: int) -> list[Batch]:
    """Packed documents with unequal numbers of valid labels in every sequence."""
    rng = np.random.default_rng(4)
    batches = []
    for _ in range(count):
        tokens = rng.integers(0, 61, (8, 25))
        tokens[:, 1::2] = (tokens[:, :-1:2] * 5 + 1) % 61
        starts = rng.random((8, 24)) < 0.15
        starts[:, 0] = True
        place = np.arange(24)
        positions = place - np.maximum.accumulate(np.where(starts, place, 0), axis=1)
        labels = np.where(rng.random((8, 24)) < np.linspace(0, 0.9, 8)[:, None], IGNORED_LABEL, tokens[:, 1:])
        batches.append(Batch(tokens[:, :-1].copy(), labels, positions))
    return batches


def plain_loop(initial: dict[str, np.ndarray], batches: list[Batch]) -> dict[str, Any]:
    """transformers' model, torch's AdamW and clipping, one process, one batch a step, written by the book."""
    model = LlamaForCausalLM(LlamaConfig.from_dict(huggingface_config(SHAPE, eos_id=0, dtype="float32")))
    model.load_state_dict({f"model.{name}": torch.from_numpy(value) for name, value in initial.items()}, strict=False)
    named = dict(model.named_parameters())
    decayed = [p for name, p in named.items() if p.dim() > 1 and "embed" not in name]
    others = [p for name, p in named.items() if p.dim() == 1 or "embed" in name]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8, foreach=False, fused=False)
    found: dict[str, Any] = {"losses": [], "norms": []}
    for step, batch in enumerate(batches, start=1):
        tokens, labels, positions = (torch.from_numpy(a) for a in (batch.tokens, batch.labels, batch.positions))
        document = (positions == 0).cumsum(1)
        allowed = (document[:, :, None] == document[:, None, :]) & torch.ones(24, 24, dtype=torch.bool).tril()
        mask = torch.zeros(allowed.shape).masked_fill(~allowed, float("-inf")).unsqueeze(1)
        logits = model(input_ids=tokens, position_ids=positions, attention_mask=mask).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL)
        loss.backward()
        if step == 1:
            found["gradients"] = {
                n.removeprefix("model."): p.grad.numpy().copy() for n, p in named.items() if p.grad is not None
            }
        found["norms"].append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.05)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(CONFIG, step)
        optimizer.step()
        optimizer.zero_grad()
        found["losses"].append(loss.item())
    found["parameters"] = {n.removeprefix("model."): p.detach().numpy() for n, p in named.items()}
    return found


@pytest.fixture(scope="module")
def initial() -> dict[str, np.ndarray]:
    (values,) = run_ranks(initial_values, 1, SHAPE, CONFIG)
    return values


@pytest.mark.parametrize("ranks", [1, 2])
def test_twenty_steps_equal_a_plain_transformers_loop(initial: dict[str, np.ndarray], ranks: int) -> None:
    batches = make_batches(20)
    wanted = plain_loop(initial, batches)
    assert min(wanted["norms"]) < 1.05 < max(wanted["norms"])
    for found in run_ranks(train, ranks, SHAPE, CONFIG, batches):
        assert found.get("error") is None, found
        np.testing.assert_allclose(found["losses"], wanted["losses"], rtol=1e-5)
        np.testing.assert_allclose(found["norms"], wanted["norms"], rtol=1e-5)
        for name, gradient in wanted["gradients"].items():
            scale = np.abs(gradient).max()
            np.testing.assert_allclose(found["gradients"][name], gradient, rtol=1e-5, atol=1e-5 * scale, err_msg=name)
        for name, value in wanted["parameters"].items():
            np.testing.assert_allclose(found["parameters"][name], value, atol=2e-4, err_msg=name)


def test_initial_values_are_bit_equal_on_one_and_three_ranks(initial: dict[str, np.ndarray]) -> None:
    for values in run_ranks(initial_values, 3, SHAPE, CONFIG):
        assert values.keys() == initial.keys()
        assert all(np.array_equal(values[name], initial[name]) for name in initial)


def test_gate_passes_a_sound_model_and_names_what_is_wrong_with_others() -> None:
    sound = run_ranks(gate, 2, SHAPE, CONFIG, "")
    assert [answer["reason"] for answer in sound] == ["", ""]
    for answer in run_ranks(gate, 2, SHAPE, CONFIG, "same seed"):
        assert answer["reason"] == "GATE_FAILED"
        assert "layers.0.mlp.up_proj.weight" in answer["equal_shards"]
        assert answer["different_replicas"] == ""
    for answer in run_ranks(gate, 2, SHAPE, CONFIG, "buffer"):
        assert answer["different_replicas"] == "rotary.cosine"
        assert answer["equal_shards"] == ""
