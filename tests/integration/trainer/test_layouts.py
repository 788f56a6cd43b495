"""Every layout computes what one process computes: losses, norms, first gradients, final parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
from longhaul_core.recipe import TrainerConfig
from longhaul_trainer.data.samples import Batch
from longhaul_trainer.model import DecoderShape
from rank_programs import merge, run_ranks, train
from test_numerics import make_batches

SECTIONS: dict[str, Any] = {
    "steps": 20,
    "seed": 9,
    "model": {"hidden_size": 32, "layers": 4, "heads": 4, "kv_heads": 2, "ffn_size": 48},
    "optimizer": {"learning_rate": 0.01, "gradient_clip": 1.05, "weight_decay": 0.1},
    "schedule": {"warmup_steps": 4, "decay_fraction": 0.3},
    "data": {"sequence_length": 24, "global_batch_size": 8, "micro_batch_size": 2},
}
EXPERTS = {"experts": 4, "experts_per_token": 2, "expert_size": 24, "balance_loss": 0.05, "balance_bias_rate": 1e-3}

TWO: dict[str, dict[str, Any]] = {
    "fsdp": {},
    "tensor": {"tensor_parallel": 2},
    "pipeline": {"pipeline_parallel": 2},
    "interleaved": {"pipeline_parallel": 2, "pipeline_schedule": "interleaved"},
    "zero bubble": {"pipeline_parallel": 2, "pipeline_schedule": "zero_bubble"},
    "context": {"context_parallel": 2},
}
FOUR: dict[str, dict[str, Any]] = {
    "hsdp": {"replicas": 2},
    "fsdp × tensor": {"tensor_parallel": 2},
    "fsdp × pipeline": {"pipeline_parallel": 2},
    "tensor × pipeline": {"tensor_parallel": 2, "pipeline_parallel": 2},
    "fsdp × context": {"context_parallel": 2},
}


def configuration(layout: dict[str, Any], **changes: Any) -> tuple[DecoderShape, TrainerConfig]:
    sections = {**SECTIONS, "layout": layout}
    for name, change in changes.items():
        sections[name] = {**sections[name], **change} if isinstance(change, dict) else change
    config = TrainerConfig.model_validate(sections)
    return DecoderShape.resolve(config, 61), config


def compare(found: dict[str, Any], wanted: dict[str, Any], *, tolerance: float, drift: float) -> None:
    """`drift`: of the parameters after all steps, where AdamW has blown round-off up."""
    np.testing.assert_allclose(found["losses"], wanted["losses"], rtol=tolerance)
    np.testing.assert_allclose(found["norms"], wanted["norms"], rtol=tolerance)
    assert found["gradients"].keys() == wanted["gradients"].keys()
    for name, gradient in wanted["gradients"].items():
        scale = max(float(np.abs(gradient).max()), 1e-12)
        np.testing.assert_allclose(found["gradients"][name], gradient, atol=tolerance * scale, err_msg=name)
    for name, value in wanted["parameters"].items():
        np.testing.assert_allclose(found["parameters"][name], value, atol=drift, err_msg=name)


def check(layouts: dict[str, dict[str, Any]], ranks: int, *, tolerance: float, drift: float, **changes: Any) -> None:
    batches: list[Batch] = make_batches(20)
    wanted = merge(run_ranks(train, 1, *configuration({}, **changes), batches, tolerance < 1e-8))
    assert min(wanted["norms"]) < 1.05 < max(wanted["norms"])
    for name, layout in layouts.items():
        answers = run_ranks(train, ranks, *configuration(layout, **changes), batches, tolerance < 1e-8)
        for answer in answers:
            assert "error" not in answer, f"{name}: {answer.get('error')}"
        try:
            compare(merge(answers), wanted, tolerance=tolerance, drift=drift)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def test_two_ranks_compute_what_one_computes() -> None:
    check(TWO, 2, tolerance=1e-10, drift=1e-8)


def test_four_ranks_in_two_dimensions_compute_what_one_computes() -> None:
    check(FOUR, 4, tolerance=1e-10, drift=1e-8)


def test_muon_computes_the_same_on_sharded_matrices() -> None:
    layouts = {"fsdp × tensor": {"tensor_parallel": 2}}
    check(layouts, 4, tolerance=1e-9, drift=1e-7, optimizer={"kind": "muon"})


def test_experts_with_balance_loss_compute_the_same_spread_over_ranks() -> None:
    layouts = {"expert": {"expert_parallel": 2}}
    check(layouts, 2, tolerance=1e-5, drift=2e-4, model={"moe": EXPERTS})
    layouts = {"fsdp × expert": {"expert_parallel": 2}}
    check(layouts, 4, tolerance=1e-5, drift=2e-4, model={"moe": EXPERTS})
