"""Every layout computes what one process computes: losses, norms, first gradients, final parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from longhaul_core.recipe import TrainerConfig
from longhaul_trainer.data.samples import Batch
from longhaul_trainer.model import DecoderShape
from rank_programs import gate, initial_values, merge, merge_values, run_ranks, train
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


def check(
    layouts: dict[str, dict[str, Any]],
    ranks: int,
    *,
    tolerance: float,
    drift: float,
    steps: int,
    by_block: bool = False,
    **changes: Any,
) -> None:
    batches: list[Batch] = make_batches(steps)
    double = tolerance < 1e-8
    wanted = merge(run_ranks(train, 1, *configuration({}, **changes), batches, double))
    assert min(wanted["norms"]) < 1.05 < max(wanted["norms"])
    for name, layout in layouts.items():
        answers = run_ranks(train, ranks, *configuration(layout, **changes), batches, double, "", by_block)
        for answer in answers:
            assert "error" not in answer, f"{name}: {answer.get('error')}"
        try:
            compare(merge(answers), wanted, tolerance=tolerance, drift=drift)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def test_two_ranks_compute_what_one_computes_over_twenty_steps() -> None:
    check(TWO, 2, tolerance=1e-10, drift=1e-8, steps=20)


def test_four_ranks_in_two_dimensions_compute_what_one_computes() -> None:
    check(FOUR, 4, tolerance=1e-10, drift=1e-8, steps=6)


def test_blocks_that_are_sharded_one_by_one_compute_the_same() -> None:
    check({name: TWO[name] for name in ("fsdp", "tensor")}, 2, tolerance=1e-10, drift=1e-8, steps=6, by_block=True)
    check({"hsdp": FOUR["hsdp"]}, 4, tolerance=1e-10, drift=1e-8, steps=6, by_block=True)


def test_muon_computes_the_same_on_sharded_matrices() -> None:
    check({"tensor": TWO["tensor"]}, 2, tolerance=1e-9, drift=1e-7, steps=6, optimizer={"kind": "muon"})
    check({"fsdp": {}}, 2, tolerance=1e-9, drift=1e-7, steps=6, optimizer={"kind": "muon"})


def test_experts_with_balance_loss_compute_the_same_spread_over_ranks() -> None:
    options: dict[str, Any] = {"tolerance": 1e-5, "drift": 2e-4, "steps": 6, "model": {"moe": EXPERTS}}
    check({"expert": {"expert_parallel": 2}, "pipeline": {"pipeline_parallel": 2}}, 2, **options)
    check({"fsdp × expert": {"expert_parallel": 2}}, 4, **options)


@pytest.mark.parametrize(
    ("defect", "layout"),
    [
        ("averaged over ranks", {}),
        ("norm of one stage", {"pipeline_parallel": 2}),
        ("tied head not summed", {"pipeline_parallel": 2}),
        ("mean of means", {}),
        ("context positions", {"context_parallel": 2}),
    ],
)
def test_planted_defect_is_found(defect: str, layout: dict[str, int]) -> None:
    batches = make_batches(2)
    wanted = merge(run_ranks(train, 1, *configuration({}), batches))
    answers = run_ranks(train, 2, *configuration(layout), batches, False, defect)
    assert all("error" not in answer for answer in answers), answers
    with pytest.raises(AssertionError):
        compare(merge(answers), wanted, tolerance=1e-5, drift=1e-5)


@pytest.mark.parametrize("layout", [{"tensor_parallel": 2}, {"pipeline_parallel": 2}, {"replicas": 2}])
def test_initial_values_are_bit_equal_in_every_layout(layout: dict[str, int]) -> None:
    wanted = merge_values(run_ranks(initial_values, 1, *configuration({})))
    found = merge_values(run_ranks(initial_values, 2, *configuration(layout)))
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    ("layout", "sections", "name"),
    [
        ({"tensor_parallel": 2}, {}, "layers.0.mlp.up_proj.weight"),
        ({"expert_parallel": 2}, {"model": {"moe": EXPERTS}}, "layers.0.mlp.experts.up_proj"),
    ],
)
def test_gate_finds_shards_that_share_a_seed(layout: dict[str, int], sections: dict[str, Any], name: str) -> None:
    shape, config = configuration(layout, **sections)
    assert [answer["reason"] for answer in run_ranks(gate, 2, shape, config, "")] == ["", ""]
    for answer in run_ranks(gate, 2, shape, config, "same seed"):
        assert name in answer["equal_shards"].split(",")


@pytest.mark.parametrize("layout", [{"tensor_parallel": 2}, {"pipeline_parallel": 2}, {"replicas": 2}])
def test_gate_and_later_checks_find_replicas_that_differ(layout: dict[str, int]) -> None:
    for answer in run_ranks(gate, 2, *configuration(layout), "replica"):
        assert answer["reason"] == "GATE_FAILED"
        assert answer["later"] == "REPLICAS_DIFFER"
        assert answer["different_replicas"] == (
            "embed_tokens.weight" if "pipeline_parallel" in layout else "norm.weight"
        )


@pytest.mark.parametrize(
    ("layout", "sections", "word"),
    [
        ({"tensor_parallel": 4}, {}, "kv_heads"),
        ({"pipeline_parallel": 4, "pipeline_schedule": "interleaved"}, {}, "fewer than the 8 pipeline stages"),
        ({"context_parallel": 4}, {"data": {"sequence_length": 20}}, "twice context_parallel"),
        ({"expert_parallel": 4}, {}, "moe.experts 0"),
        ({"replicas": 3}, {}, "replicas 3 does not divide"),
        ({"data_parallel": 3}, {}, "= 3, but there are 4"),
        ({"pipeline_parallel": 4}, {"data": {"micro_batch_size": 8}}, "too few for 4 pipeline stages"),
    ],
)
def test_layout_that_does_not_fit_is_refused_with_the_degree(
    layout: dict[str, Any], sections: dict[str, Any], word: str
) -> None:
    _, config = configuration(layout, **sections)
    with pytest.raises(ValueError, match=word):
        config.check_world_size(4)
