"""`plan`: from a model, a token budget and GPUs to layout, memory, time, GPU-hours and cost.

The ledger has a line for experiments and debugging, because a plan without it is wrong: SmolLM3 spent 58 % of its main
run's GPU-hours on ablations, resets and debugging (161,280 against 276,480).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from longhaul_core.errors import InvalidArgument

from longhaul_training.domain.planning.compass import (
    Question,
    compass_questions,
    epoch_warnings,
    scaling_warnings,
    vocabulary_warnings,
)
from longhaul_training.domain.planning.hardware import Accelerator
from longhaul_training.domain.planning.layout import Layout, candidate_layouts, layout_problems
from longhaul_training.domain.planning.memory import MemoryEstimate, estimate_memory
from longhaul_training.domain.planning.scaling import optimal_tokens_per_parameter, predicted_loss
from longhaul_training.domain.planning.sizing import ModelShape, ModelSize, size_model
from longhaul_training.domain.planning.timing import estimate_step

EXPERIMENTS_FRACTION = 0.58
# Share of wall time that a well-kept run spends on productive steps (MegaScale and Llama 3 report above 90 %).
GOODPUT = 0.95
SECONDS_PER_HOUR = 3600.0
# Master weights and the two moments, float32; gradients are not saved.
CHECKPOINT_BYTES_PER_PARAMETER = 12


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What is to be trained and on what."""

    shape: ModelShape
    tokens: int
    batch_sequences: int
    accelerator: Accelerator
    gpus: int
    layout: Layout | None = None
    available_tokens: int = 0
    maximum_epochs: float = 5.0
    experiments_fraction: float = EXPERIMENTS_FRACTION
    price_per_gpu_hour: float = 0.0
    expected_mfu: float = 0.0
    goodput: float = GOODPUT
    reason: str = ""
    compute_bytes: int = 2


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One line of the GPU-hour ledger."""

    name: str
    gpu_hours: float
    cost: float
    note: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer; all figures are estimates except the counts of parameters, steps and tokens."""

    size: ModelSize
    layout: Layout
    memory: MemoryEstimate
    fits: bool
    step_seconds: float
    steps: int
    tokens: int
    mfu: float
    tokens_per_second: float
    ideal_seconds: float
    wall_seconds: float
    ledger: tuple[LedgerLine, ...]
    tokens_per_parameter: float
    optimal_tokens_per_parameter: float
    predicted_loss_nats: float
    questions: tuple[Question, ...]
    warnings: tuple[str, ...]
    epochs: float
    checkpoint_bytes: int
    assumptions: str

    @property
    def gpu_hours(self) -> float:
        """All lines of the ledger together."""
        return sum(line.gpu_hours for line in self.ledger)

    @property
    def cost(self) -> float:
        """All lines of the ledger together, in the currency of the price."""
        return sum(line.cost for line in self.ledger)


def make_plan(request: PlanRequest) -> Plan:
    """Plans a run; raises InvalidArgument when no layout can run it at all."""
    size = size_model(request.shape)
    layout = _checked_layout(request) if request.layout else _fastest_layout(request, size)
    memory = _memory(request, size, layout)
    step_seconds, assumptions = _step_seconds(request, size, layout)
    tokens_per_step = request.batch_sequences * request.shape.sequence_length
    steps = max(1, math.ceil(request.tokens / tokens_per_step))
    tokens = steps * tokens_per_step
    ideal = steps * step_seconds
    ledger = _ledger(request, ideal)
    epochs = tokens / request.available_tokens if request.available_tokens else 0.0
    return Plan(
        size=size,
        layout=layout,
        memory=memory,
        fits=memory.total <= request.accelerator.memory_bytes,
        step_seconds=step_seconds,
        steps=steps,
        tokens=tokens,
        mfu=size.flops_per_token * tokens_per_step / (request.gpus * request.accelerator.peak_flops * step_seconds),
        tokens_per_second=tokens_per_step / step_seconds,
        ideal_seconds=ideal,
        wall_seconds=ideal / request.goodput,
        ledger=ledger,
        tokens_per_parameter=tokens / size.parameters,
        optimal_tokens_per_parameter=optimal_tokens_per_parameter(size.parameters),
        predicted_loss_nats=predicted_loss(size.parameters, tokens),
        questions=compass_questions(sum(line.gpu_hours for line in ledger), request.reason),
        warnings=_warnings(request, size, tokens, memory, epochs),
        epochs=epochs,
        checkpoint_bytes=CHECKPOINT_BYTES_PER_PARAMETER * size.parameters,
        assumptions=assumptions,
    )


def _step_seconds(request: PlanRequest, size: ModelSize, layout: Layout) -> tuple[float, str]:
    """Seconds a step: from the MFU that the user expects, or from the model of computation and communication."""
    gpu = request.accelerator
    peak = f"{gpu.peak_flops / 1e12:g} TFLOPS dense peak of {gpu.name}"
    if request.expected_mfu > 0:
        tokens = request.batch_sequences * request.shape.sequence_length
        seconds = size.flops_per_token * tokens / (request.gpus * gpu.peak_flops * request.expected_mfu)
        return seconds, f"MFU {request.expected_mfu:.1%} as given, of {peak}; goodput {request.goodput:.0%}"
    step = estimate_step(request.shape, size, layout, gpu)
    flops = size.flops_per_token * request.batch_sequences * request.shape.sequence_length
    mfu = flops / (request.gpus * gpu.peak_flops * step.total)
    return step.total, f"MFU {mfu:.1%} estimated from published runs, of {peak}; goodput {request.goodput:.0%}"


def _memory(request: PlanRequest, size: ModelSize, layout: Layout) -> MemoryEstimate:
    return estimate_memory(request.shape, size, layout, request.accelerator.memory_bytes, request.compute_bytes)


def _checked_layout(request: PlanRequest) -> Layout:
    assert request.layout is not None
    problems = layout_problems(request.shape, request.layout, request.gpus, request.accelerator.gpus_per_node)
    if problems:
        raise InvalidArgument(
            "the layout can't run this model",
            reason="LAYOUT_IMPOSSIBLE",
            violations=[("layout", problem) for problem in problems],
            action="change the degrees so that their product is the number of GPUs",
        )
    return request.layout


def _fastest_layout(request: PlanRequest, size: ModelSize) -> Layout:
    """The fastest layout that fits; when none fits, the one that needs the least memory."""
    gpu = request.accelerator
    candidates = list(candidate_layouts(request.shape, request.gpus, gpu.gpus_per_node, request.batch_sequences))
    if not candidates:
        raise InvalidArgument(
            f"a batch of {request.batch_sequences} sequences can't be split over {request.gpus} GPUs",
            reason="LAYOUT_IMPOSSIBLE",
            violations=[("batch_sequences", f"no parallel layout of {request.gpus} GPUs divides it")],
            action="make the batch a multiple of the number of GPUs",
        )
    memory = {c: _memory(request, size, c).total for c in candidates}
    fitting = [c for c in candidates if memory[c] <= gpu.memory_bytes]
    if not fitting:
        return min(candidates, key=lambda c: memory[c])
    return min(fitting, key=lambda c: (estimate_step(request.shape, size, c, gpu).total, memory[c]))


def _ledger(request: PlanRequest, ideal_seconds: float) -> tuple[LedgerLine, ...]:
    main = ideal_seconds * request.gpus / SECONDS_PER_HOUR
    lost = main * (1.0 / request.goodput - 1.0)
    tried = main * request.experiments_fraction
    lines = (
        ("main run", main, "productive steps"),
        ("faults and restarts", lost, f"goodput {request.goodput:.0%}"),
        ("experiments and debugging", tried, f"{request.experiments_fraction:.0%} of the main run, as SmolLM3 spent"),
    )
    return tuple(LedgerLine(name, hours, hours * request.price_per_gpu_hour, note) for name, hours, note in lines)


def _warnings(
    request: PlanRequest, size: ModelSize, tokens: int, memory: MemoryEstimate, epochs: float
) -> tuple[str, ...]:
    gib = 1024**3
    warnings = []
    if memory.total > request.accelerator.memory_bytes:
        warnings.append(
            f"needs {memory.total / gib:.1f} GiB a GPU, {request.accelerator.name} has "
            f"{request.accelerator.memory_bytes / gib:.0f}: use more GPUs, a smaller micro-batch or shorter sequences"
        )
    warnings += scaling_warnings(size.parameters, tokens)
    warnings += epoch_warnings(epochs, request.maximum_epochs)
    warnings += vocabulary_warnings(request.shape.vocabulary_size)
    return tuple(warnings)
