"""Training runs: requests to stored specifications, stored runs to messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from longhaul.common.v1 import resource_pb2
from longhaul.training.v1 import training_run_pb2 as pb
from longhaul_core.errors import InvalidArgument
from longhaul_core.ids import fingerprint, parse_name
from longhaul_core.recipe import PodConfig, Section, TrainerConfig
from pydantic import ValidationError

from longhaul_training.adapters.rank_logs import LogText
from longhaul_training.adapters.run_store import StoredRun
from longhaul_training.convert.common import duration, metadata, plain, state_reason, struct, timestamp
from longhaul_training.domain.goodput import TimeLedger, ledger
from longhaul_training.domain.incidents import repair_times
from longhaul_training.domain.observations import AgentView
from longhaul_training.domain.planning.sizing import ModelShape
from longhaul_training.domain.progress import run_progress
from longhaul_training.domain.states import Incident, RecoveryAction, Run, RunState

_Section = TypeVar("_Section", bound=Section)

COLLECTION = "trainingRuns"
MAXIMUM_PODS = 100_000
# For plans and counts before the tokenizer is known.
DEFAULT_VOCABULARY = 4096

_STATES = {state: pb.TrainingRunState.Value(f"TRAINING_RUN_STATE_{state.value}") for state in RunState}
_ACTIONS = {action: pb.RecoveryAction.Value(f"RECOVERY_ACTION_{action.value}") for action in RecoveryAction}


def state(value: RunState) -> pb.TrainingRunState.ValueType:
    """A state as its enum value."""
    return _STATES[value]


def spec_of(message: pb.TrainingRunSpec) -> dict[str, Any]:
    """A checked specification with all defaults resolved; raises InvalidArgument naming each wrong field."""
    resources = message.resources
    spec: dict[str, Any] = {
        "trainer_config": {},
        "token_set": message.token_set,
        "resources": {
            "nodes": resources.nodes or 1,
            "gpus_per_node": resources.gpus_per_node or 1,
            "spares": resources.spares,
            "priority": resources.priority,
            "pool": resources.pool,
            "image": resources.image,
        },
        "recipe": message.recipe,
        "code_version": message.code_version,
        "labels": dict(message.labels),
    }
    violations = _resource_violations(spec["resources"])
    pod, problems = _validated(PodConfig, plain(resources.pod), "spec.resources.pod")
    violations += problems
    if pod is not None and pod != PodConfig():
        spec["resources"]["pod"] = pod.model_dump(mode="json", exclude_defaults=True)
    parse_name(message.token_set, "tokenSets", "spec.token_set")
    config, problems = trainer_config_of(plain(message.trainer_config))
    violations += problems
    if config is not None and not violations:
        violations += _layout_violations(config, spec["resources"])
        spec["trainer_config"] = config.model_dump(mode="json")
    if violations:
        listed = "; ".join(f"{field}: {text}" for field, text in violations)
        raise InvalidArgument(
            f"the training run can't be accepted: {listed}", reason="SPEC_INVALID", violations=violations
        )
    return spec


def trainer_config_of(values: Mapping[str, Any]) -> tuple[TrainerConfig | None, list[tuple[str, str]]]:
    """The trainer's configuration, or what is wrong with it."""
    return _validated(TrainerConfig, values, "spec.trainer_config")


def _validated(
    kind: type[_Section], values: Mapping[str, Any], field: str
) -> tuple[_Section | None, list[tuple[str, str]]]:
    """A section of a recipe, or what is wrong with it."""
    try:
        return kind.model_validate(values), []
    except ValidationError as error:
        return None, [
            (".".join((field, *(str(part) for part in item["loc"]))), item["msg"].removeprefix("Value error, "))
            for item in error.errors(include_url=False, include_context=False, include_input=False)
        ]


def model_shape(config: TrainerConfig) -> ModelShape:
    """The planner's view of a model."""
    model = config.model
    return ModelShape(
        layers=model.layers,
        hidden_size=model.hidden_size,
        heads=model.heads,
        kv_heads=model.kv_heads,
        head_size=model.head_size,
        ffn_size=model.ffn_size,
        vocabulary_size=model.vocabulary_size or DEFAULT_VOCABULARY,
        sequence_length=config.data.sequence_length,
        tied_embeddings=model.tied_embeddings,
    )


def spec_fingerprint(spec: Mapping[str, Any]) -> str:
    """What makes two requests the same: configuration, input and resources, not the wording of the recipe."""
    return fingerprint({name: spec[name] for name in ("trainer_config", "token_set", "resources")})


def run_to_proto(stored: StoredRun, agents: Mapping[str, AgentView], now: float) -> pb.TrainingRun:
    """A run with its status as of `now`."""
    return pb.TrainingRun(
        metadata=metadata(stored.row, stored.run.name),
        spec=spec_to_proto(stored.row.spec),
        status=_status(stored, agents, now),
    )


def log_line(line: LogText) -> pb.LogLine:
    """A line of a rank's log."""
    chunk = line.chunk
    return pb.LogLine(
        time=timestamp(chunk.at.timestamp()), rank=chunk.rank, epoch=chunk.epoch, pod=chunk.pod, text=line.text
    )


def spec_to_proto(spec: Mapping[str, Any]) -> pb.TrainingRunSpec:
    """A stored specification as it is shown."""
    return pb.TrainingRunSpec(
        trainer_config=struct(spec["trainer_config"]),
        token_set=spec["token_set"],
        resources=pb.RunResources(**{**spec["resources"], "pod": struct(spec["resources"].get("pod", {}))}),
        recipe=spec["recipe"],
        code_version=spec["code_version"],
        labels=spec["labels"],
    )


def _status(stored: StoredRun, agents: Mapping[str, AgentView], now: float) -> pb.TrainingRunStatus:
    run, reports = stored.run, stored.reports
    control = run.control
    total = int(stored.row.spec["trainer_config"]["steps"])
    times = ledger(control.time, control.state, reports.worker_time, control.ended_at or now)
    status = pb.TrainingRunStatus(
        state=state(control.state),
        reason=state_reason(control.reason),
        progress=_progress(stored, total, times.goodput),
        epoch=control.epoch,
        step=max(0, reports.step),
        total_steps=total,
        tokens=reports.tokens,
        loss=reports.loss,
        tokens_per_second=reports.tokens_per_second if control.state is RunState.RUNNING else 0.0,
        checkpoint=reports.checkpoint or (control.resume.checkpoint if control.resume else ""),
        ranks=_ranks(run, agents, now),
        incidents=[_incident(incident, now) for incident in control.incidents],
        time=_time(times),
        restarts=dict(control.failures.by_cause),
        pending_reason=control.reason.message if _is_pending(control.state) else "",
    )
    if control.recovery is not None:
        status.recovery_action = _ACTIONS[control.recovery]
    if reports.validation_loss is not None:
        status.validation_loss = reports.validation_loss
    if control.pinned is not None:
        pinned = control.pinned
        status.inputs.append(resource_pb2.InputReference(name=pinned.name, digest=pinned.digest))
    if control.started_at is not None:
        status.start_time.CopyFrom(timestamp(control.started_at))
    if control.ended_at is not None:
        status.end_time.CopyFrom(timestamp(control.ended_at))
    return status


def _is_pending(value: RunState) -> bool:
    return value in (RunState.QUEUED, RunState.WAITING_FOR_INPUTS)


def _progress(stored: StoredRun, total: int, goodput: float) -> resource_pb2.Progress:
    progress = run_progress(stored.reports, total, goodput)
    message = resource_pb2.Progress(
        done=progress.done,
        total=progress.total,
        unit="steps",
        fraction=progress.fraction,
        rate=progress.steps_per_second,
        phase=stored.run.control.state.value.lower(),
    )
    if progress.eta_seconds is not None and not stored.run.control.state.terminal:
        message.eta.CopyFrom(duration(progress.eta_seconds))
    return message


def _ranks(run: Run, agents: Mapping[str, AgentView], now: float) -> list[pb.RankStatus]:
    nodes = {pod: slot.node for pod, slot in run.current_pods().items()}
    return [
        pb.RankStatus(
            rank=worker.rank,
            pod=agent.pod,
            node=nodes.get(agent.pod, ""),
            process_id=worker.process_id,
            gpu_index=worker.local_rank,
            step=worker.step,
            phase=worker.phase,
            heartbeat_time=timestamp(now - agent.silent_seconds),
        )
        for agent in agents.values()
        for worker in agent.workers
    ]


def _incident(incident: Incident, now: float) -> pb.Incident:
    times = repair_times(incident, now)
    message = pb.Incident(
        number=incident.number,
        cause=incident.cause,
        message=incident.message,
        action=_ACTIONS[incident.action],
        node=incident.node,
        fault_time=timestamp(incident.fault_at),
        detect_seconds=times.detect,
        restart_seconds=times.restart,
        restore_seconds=times.restore,
        replay_seconds=times.replay,
        replay_steps=max(0, incident.fault_step - incident.resume_step) if incident.restored_at is not None else 0,
        fault_step=max(0, incident.fault_step),
        resume_step=incident.resume_step,
        epoch=incident.epoch,
    )
    if incident.recovered_at is not None:
        message.recovered_time.CopyFrom(timestamp(incident.recovered_at))
    return message


def _time(times: TimeLedger) -> pb.TimeLedger:
    return pb.TimeLedger(
        productive_seconds=times.productive,
        startup_seconds=times.startup,
        data_wait_seconds=times.data_wait,
        checkpoint_seconds=times.checkpoint,
        recovery_seconds=times.recovery,
        replay_seconds=times.replay,
        paused_seconds=times.paused,
        queued_seconds=times.queued,
        goodput=times.goodput,
    )


def _resource_violations(resources: Mapping[str, Any]) -> list[tuple[str, str]]:
    violations = []
    for name in ("nodes", "gpus_per_node", "spares"):
        if not (0 if name == "spares" else 1) <= resources[name] <= MAXIMUM_PODS:
            violations.append((f"spec.resources.{name}", f"{resources[name]} is out of range"))
    return violations


def _layout_violations(config: TrainerConfig, resources: Mapping[str, Any]) -> list[tuple[str, str]]:
    world_size = resources["nodes"] * resources["gpus_per_node"]
    try:
        layout = config.check_world_size(world_size)
    except ValueError as error:
        return [("spec.trainer_config", str(error))]
    if layout.tensor_parallel > resources["gpus_per_node"]:
        text = f"tensor_parallel {layout.tensor_parallel} would cross nodes of {resources['gpus_per_node']} GPU(s)"
        return [("spec.trainer_config.layout", text)]
    return []
