"""Plans: a recipe's trainer section to a plan request, a plan to its message."""

from __future__ import annotations

from longhaul.training.v1 import plan_pb2 as pb
from longhaul_core.errors import InvalidArgument
from longhaul_core.recipe import Precision, TrainerConfig

from longhaul_training.convert.common import duration, plain
from longhaul_training.convert.runs import model_shape, trainer_config_of
from longhaul_training.domain.planning.hardware import ACCELERATORS, Accelerator
from longhaul_training.domain.planning.layout import Layout
from longhaul_training.domain.planning.plan import Plan, PlanRequest

DEFAULT_ACCELERATOR = "cpu"
REASONS = ("research", "production", "open-gap")


def plan_request_of(message: pb.CreatePlanRequest) -> PlanRequest:
    """A checked request; raises InvalidArgument."""
    config, violations = trainer_config_of(plain(message.trainer_config))
    name = message.accelerator or DEFAULT_ACCELERATOR
    if name not in ACCELERATORS:
        violations.append(("accelerator", f"{name!r} is not known; known are {', '.join(sorted(ACCELERATORS))}"))
    if message.reason and message.reason not in REASONS:
        violations.append(("reason", f"{message.reason!r} is none of {', '.join(REASONS)}"))
    if not 0 <= message.expected_mfu < 1:
        violations.append(("expected_mfu", f"{message.expected_mfu} is not between 0 and 1"))
    gpus = (message.nodes or 1) * (message.gpus_per_node or 1)
    layout = None
    if config is not None:
        try:
            layout = _layout(config, gpus)
        except ValueError as error:
            violations.append(("trainer_config", str(error)))
    if violations or config is None:
        listed = "; ".join(f"{field}: {text}" for field, text in violations)
        raise InvalidArgument(f"the plan can't be made: {listed}", reason="PLAN_INVALID", violations=violations)
    return PlanRequest(
        shape=model_shape(config),
        tokens=config.steps * config.tokens_per_step,
        batch_sequences=config.data.global_batch_size,
        accelerator=ACCELERATORS[name],
        gpus=gpus,
        layout=layout,
        available_tokens=message.available_tokens,
        maximum_epochs=config.data.maximum_epochs,
        price_per_gpu_hour=message.price_per_gpu_hour,
        expected_mfu=message.expected_mfu,
        reason=message.reason,
        compute_bytes=2 if config.runtime.precision is Precision.BFLOAT16 else 4,
    )


def plan_to_proto(plan: Plan, accelerator: Accelerator) -> pb.Plan:
    """A plan as its message."""
    size, memory, layout = plan.size, plan.memory, plan.layout
    return pb.Plan(
        parameters=size.parameters,
        active_parameters=size.parameters,
        embedding_parameters=size.embedding_parameters,
        flops_per_token=float(size.flops_per_token),
        steps=plan.steps,
        tokens=plan.tokens,
        tokens_per_step=plan.tokens // plan.steps,
        tokens_per_parameter=plan.tokens_per_parameter,
        compute_optimal_tokens=int(plan.optimal_tokens_per_parameter * size.parameters),
        predicted_loss=plan.predicted_loss_nats,
        memory=pb.MemoryEstimate(
            parameters=memory.parameters + memory.gathered,
            gradients=memory.gradients,
            optimizer=memory.optimizer,
            activations=memory.activations + memory.logits,
            total=memory.total,
            available=accelerator.memory_bytes,
            fits=plan.fits,
        ),
        training_time=duration(plan.wall_seconds),
        tokens_per_second=plan.tokens_per_second,
        gpu_hours=plan.gpu_hours,
        ledger=[pb.LedgerLine(item=line.name, gpu_hours=line.gpu_hours, note=line.note) for line in plan.ledger],
        cost=plan.cost,
        checkpoint_bytes=plan.checkpoint_bytes,
        layout=_describe(layout),
        assumptions=plan.assumptions,
        warnings=plan.warnings,
        compass=[
            pb.CompassQuestion(question=q.text, advice=f"{q.reason} Stop if: {q.stop_if}.", answered=q.answered)
            for q in plan.questions
        ],
        epochs=plan.epochs,
    )


def _layout(config: TrainerConfig, gpus: int) -> Layout:
    degrees = config.check_world_size(gpus)
    per_rank = config.data.global_batch_size // degrees.data_parallel
    micro_batch = min(config.data.micro_batch_size or 1, per_rank)
    return Layout(
        data_parallel=degrees.data_parallel,
        tensor_parallel=degrees.tensor_parallel,
        pipeline_parallel=degrees.pipeline_parallel,
        context_parallel=degrees.context_parallel,
        micro_batch=micro_batch,
        micro_batches=per_rank // micro_batch,
    )


def _describe(layout: Layout) -> str:
    degrees = (
        ("data", layout.data_parallel),
        ("tensor", layout.tensor_parallel),
        ("pipeline", layout.pipeline_parallel),
        ("context", layout.context_parallel),
    )
    named = " x ".join(f"{name} {degree}" for name, degree in degrees if degree > 1) or "one GPU"
    return f"{named}, {layout.micro_batches} x {layout.micro_batch} sequences a rank and step"
