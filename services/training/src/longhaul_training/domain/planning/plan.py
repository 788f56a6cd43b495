"""`plan`: from a model, a token budget and GPUs to layout, memory, time, GPU-hours and cost.

The ledger has a line for experiments and debugging, because a plan without it is wrong: SmolLM3 spent 58 % of its main
run's GPU-hours on ablations, resets and debugging (161,280 against 276,480).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from longhaul_core.errors import InvalidArgument

from longhaul_training.domain.planning.compass import (
    Question,
    SourceUse,
    compass_questions,
    scaling_warnings,
    source_warnings,
    vocabulary_warnings,
)
from longhaul_training.domain.planning.hardware import Accelerator
from longhaul_training.domain.planning.layout import Layout, candidate_layouts, layout_problems
from longhaul_training.domain.planning.memory import MemoryEstimate, estimate_memory
from longhaul_training.domain.planning.scaling import optimal_tokens_per_parameter, predicted_loss
from longhaul_training.domain.planning.sizing import ModelShape, ModelSize, size_model
from longhaul_training.domain.planning.timing import StepTime, estimate_step

EXPERIMENTS_FRACTION = 0.58
# Share of wall time that a well-kept run spends on productive steps (MegaScale and Llama 3 report above 90 %).
GOODPUT = 0.95
SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What is to be trained and on what."""

    shape: ModelShape
    tokens: int
    batch_sequences: int
    accelerator: Accelerator
    gpus: int
    layout: Layout | None = None
    sources: tuple[SourceUse, ...] = ()
    experiments_fraction: float = EXPERIMENTS_FRACTION
    price_per_gpu_hour: float | None = None
    goodput: float = GOODPUT


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One line of the GPU-hour ledger."""

    name: str
    gpu_hours: float
    cost: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer; all figures are estimates except the counts of parameters, steps and tokens."""

    size: ModelSize
    layout: Layout
    memory: MemoryEstimate
    fits: bool
    step: StepTime
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
    memory = estimate_memory(request.shape, size, layout, request.accelerator.memory_bytes)
    step = estimate_step(request.shape, size, layout, request.accelerator)
    tokens_per_step = request.batch_sequences * request.shape.sequence_length
    steps = max(1, math.ceil(request.tokens / tokens_per_step))
    tokens = steps * tokens_per_step
    ideal = steps * step.total
    peak = request.gpus * request.accelerator.peak_flops
    fits = memory.total <= request.accelerator.memory_bytes
    plan = Plan(
        size=size,
        layout=layout,
        memory=memory,
        fits=fits,
        step=step,
        steps=steps,
        tokens=tokens,
        mfu=size.flops_per_token * tokens_per_step / (peak * step.total),
        tokens_per_second=tokens_per_step / step.total,
        ideal_seconds=ideal,
        wall_seconds=ideal / request.goodput,
        ledger=_ledger(request, ideal),
        tokens_per_parameter=tokens / size.parameters,
        optimal_tokens_per_parameter=optimal_tokens_per_parameter(size.parameters),
        predicted_loss_nats=predicted_loss(size.parameters, tokens),
        questions=(),
        warnings=_warnings(request, size, tokens, memory, fits),
    )
    return replace(plan, questions=compass_questions(plan.gpu_hours))


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
    memory = {c: estimate_memory(request.shape, size, c, gpu.memory_bytes).total for c in candidates}
    fitting = [c for c in candidates if memory[c] <= gpu.memory_bytes]
    if not fitting:
        return min(candidates, key=lambda c: memory[c])
    return min(fitting, key=lambda c: (estimate_step(request.shape, size, c, gpu).total, memory[c]))


def _ledger(request: PlanRequest, ideal_seconds: float) -> tuple[LedgerLine, ...]:
    gpu = request.accelerator
    price = gpu.price_per_hour if request.price_per_gpu_hour is None else request.price_per_gpu_hour
    main = ideal_seconds * request.gpus / SECONDS_PER_HOUR
    lines = (
        ("main run", main),
        ("faults, restarts and checkpoints", main * (1.0 / request.goodput - 1.0)),
        ("experiments and debugging", main * request.experiments_fraction),
    )
    return tuple(LedgerLine(name, hours, hours * price) for name, hours in lines)


def _warnings(
    request: PlanRequest, size: ModelSize, tokens: int, memory: MemoryEstimate, fits: bool
) -> tuple[str, ...]:
    gib = 1024**3
    warnings = []
    if not fits:
        warnings.append(
            f"needs {memory.total / gib:.1f} GiB a GPU, {request.accelerator.name} has "
            f"{request.accelerator.memory_bytes / gib:.0f}: use more GPUs, a smaller model or a shorter sequence"
        )
    warnings += scaling_warnings(size.parameters, tokens)
    warnings += source_warnings(request.sources)
    warnings += vocabulary_warnings(request.shape.vocabulary_size)
    if request.experiments_fraction <= 0:
        warnings.append("no GPU-hours for experiments and debugging: no published run did without")
    return tuple(warnings)
