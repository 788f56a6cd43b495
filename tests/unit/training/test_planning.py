from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from longhaul_core.errors import InvalidArgument
from longhaul_training.domain.planning.hardware import ACCELERATORS, GIB
from longhaul_training.domain.planning.layout import Layout, Recompute, candidate_layouts
from longhaul_training.domain.planning.memory import estimate_memory
from longhaul_training.domain.planning.plan import PlanRequest, make_plan
from longhaul_training.domain.planning.scaling import compute_optimum, optimal_tokens_per_parameter, predicted_loss
from longhaul_training.domain.planning.sizing import ModelShape, size_model
from longhaul_training.domain.planning.timing import estimate_step

LLAMA_8B = ModelShape(32, 4096, 32, 8, 128, 14336, 128256, 8192, tied_embeddings=False)
SMOLLM3 = ModelShape(36, 2048, 16, 4, 128, 11008, 128256, 4096)
GPT_124M = ModelShape(12, 768, 12, 12, 64, 3072, 50304, 1024, gated_ffn=False)
LLAMA_405B = ModelShape(126, 16384, 128, 8, 128, 53248, 128256, 8192, tied_embeddings=False)
OLMO2_32B = ModelShape(64, 5120, 40, 8, 128, 27648, 100352, 4096, tied_embeddings=False)
BLOOM = ModelShape(70, 14336, 112, 112, 128, 4 * 14336, 250880, 2048, gated_ffn=False)

FULL, SOME, NONE = Recompute.FULL, Recompute.SELECTIVE, Recompute.NONE


@pytest.mark.parametrize(("shape", "parameters"), [(LLAMA_8B, 8_030_261_248), (SMOLLM3, 3_075_098_624)])
def test_parameters_are_those_of_the_published_models(shape: ModelShape, parameters: int) -> None:
    assert size_model(shape).parameters == parameters


def test_output_projection_counts_even_when_it_is_tied() -> None:
    size = size_model(GPT_124M)
    without = 6 * (size.matmul_parameters - GPT_124M.vocabulary_size * GPT_124M.hidden_size)
    assert 1 - (without + size.attention_flops_per_token) / size.flops_per_token == pytest.approx(0.27, abs=0.01)


def test_optimum_beats_every_other_split_of_the_same_budget() -> None:
    best = compute_optimum(1e22)
    assert 18 < best.tokens / best.parameters < 24
    assert best.tokens / best.parameters == pytest.approx(optimal_tokens_per_parameter(best.parameters))
    for factor in (0.5, 0.8, 1.25, 2.0):
        assert predicted_loss(best.parameters * factor, best.tokens / factor) > best.loss_nats


@pytest.mark.parametrize(
    ("shape", "layout", "accelerator", "tokens_per_second_per_gpu"),
    [
        pytest.param(GPT_124M, Layout(8, micro_batch=64), "h100", 463_000, id="llm.c 124M"),
        pytest.param(LLAMA_8B, Layout(8, recompute=SOME), "h100", 6_667, id="torchtitan 8B, compiled"),
        pytest.param(OLMO2_32B, Layout(1024, micro_batch=2, recompute=SOME), "h100", 1_800, id="OLMo 2 32B"),
        pytest.param(
            LLAMA_405B,
            Layout(128, 8, 16, micro_batches=16),
            "h100",
            400e12 / size_model(LLAMA_405B).flops_per_token,
            id="Llama 3.1 405B",
        ),
        pytest.param(
            BLOOM, Layout(8, 4, 12, 1, 2, 128, FULL), "a100", 2048 * 2048 / 105 / 384, id="BLOOM: 105 s a step"
        ),
    ],
)
def test_speed_of_published_runs_is_predicted_within_a_fifth(
    shape: ModelShape, layout: Layout, accelerator: str, tokens_per_second_per_gpu: float
) -> None:
    step = estimate_step(shape, size_model(shape), layout, ACCELERATORS[accelerator])
    sequences = layout.data_parallel * layout.micro_batches * layout.micro_batch
    predicted = sequences * shape.sequence_length / step.total / layout.gpus
    assert predicted == pytest.approx(tokens_per_second_per_gpu, rel=0.2)


def test_gpu_hours_of_smollm3_follow_from_its_speed() -> None:
    mfu = 14_070 * size_model(SMOLLM3).flops_per_token / 989e12
    request = PlanRequest(
        shape=SMOLLM3,
        tokens=11_200_000_000_000,
        batch_sequences=576,
        accelerator=ACCELERATORS["h100"],
        gpus=384,
        layout=Layout(192, 2, micro_batch=3),
        expected_mfu=mfu,
        price_per_gpu_hour=2.0,
        goodput=1.0,
    )
    plan = make_plan(request)
    assert plan.ledger[0].gpu_hours == pytest.approx(221_000, rel=0.02)
    assert plan.wall_seconds / 86_400 == pytest.approx(24, rel=0.02)
    assert plan.ledger[2].gpu_hours == pytest.approx(0.58 * plan.ledger[0].gpu_hours)
    assert plan.cost == pytest.approx(2.0 * plan.gpu_hours)
    assert f"{mfu:.1%} as given" in plan.assumptions
    assert "989" in plan.assumptions


def test_memory_shrinks_with_shards_and_recomputation() -> None:
    size = size_model(LLAMA_8B)
    totals = [
        estimate_memory(LLAMA_8B, size, layout, 80 * GIB).total
        for layout in (Layout(1), Layout(8), Layout(64), Layout(64, recompute=FULL))
    ]
    assert totals == sorted(totals, reverse=True)
    whole = estimate_memory(LLAMA_8B, size, Layout(1), 80 * GIB)
    assert whole.parameters + whole.gradients + whole.optimizer == 16 * size.parameters
    in_float32 = estimate_memory(LLAMA_8B, size, Layout(8), 80 * GIB, compute_bytes=4)
    assert in_float32.activations == 2 * estimate_memory(LLAMA_8B, size, Layout(8), 80 * GIB).activations


REQUEST = PlanRequest(LLAMA_8B, 160_000_000_000, 1024, ACCELERATORS["h100"], 64)


def test_fastest_layout_that_fits_is_chosen() -> None:
    plan = make_plan(REQUEST)
    assert plan.fits
    size = size_model(LLAMA_8B)
    for layout in itertools.islice(candidate_layouts(LLAMA_8B, 64, 8, 1024), 300):
        if estimate_memory(LLAMA_8B, size, layout, 80 * GIB).total <= 80 * GIB:
            assert estimate_step(LLAMA_8B, size, layout, REQUEST.accelerator).total >= plan.step_seconds - 1e-9


def test_plan_counts_steps_tokens_and_time_consistently() -> None:
    plan = make_plan(REQUEST)
    assert plan.steps == -(-160_000_000_000 // (1024 * 8192))
    assert plan.tokens == plan.steps * 1024 * 8192
    assert plan.wall_seconds == pytest.approx(plan.ideal_seconds / 0.95)
    assert plan.tokens_per_second * plan.step_seconds == pytest.approx(1024 * 8192)
    assert sum(line.gpu_hours for line in plan.ledger[:2]) == pytest.approx(64 * plan.wall_seconds / 3600)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"shape": LLAMA_405B, "gpus": 8, "batch_sequences": 64}, "use more GPUs"),
        ({"tokens": 1_000_000_000}, "is compute-optimal"),
        ({"tokens": 15_000_000_000_000}, "cheap inference"),
        ({"available_tokens": 20_000_000_000}, "more than data.maximum_epochs 5"),
        ({"shape": replace(LLAMA_8B, vocabulary_size=128_255)}, "no multiple of 128"),
    ],
)
def test_doubtful_plans_warn(changes: dict, text: str) -> None:
    assert any(text in warning for warning in make_plan(replace(REQUEST, **changes)).warnings)


def test_sound_plan_does_not_warn() -> None:
    assert make_plan(REQUEST).warnings == ()


def test_compass_asks_why_at_all_and_takes_an_answer() -> None:
    asked = make_plan(REQUEST).questions
    assert "prompt" in asked[0].text
    assert "fine-tuning" in asked[1].text
    assert not asked[2].answered
    assert make_plan(replace(REQUEST, reason="research")).questions[2].answered
    assert len(make_plan(replace(REQUEST, tokens=2_000_000_000_000)).questions) == len(asked) + 1


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        (Layout(32), "but the run has 64 GPUs"),
        (Layout(4, 16), "crosses nodes"),
        (Layout(1, 1, 64), "more than the 32 layers"),
    ],
)
def test_impossible_layouts_are_refused_by_name(layout: Layout, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        make_plan(replace(REQUEST, layout=layout))
    assert any(text in description for _, description in caught.value.violations)


def test_batch_that_no_layout_divides_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="can't be split over 1024 GPUs"):
        make_plan(replace(REQUEST, gpus=1024, batch_sequences=7))
