"""Stored runs to messages: the status, and the explanation of a run that waits."""

from __future__ import annotations

from collections.abc import Mapping

from longhaul.common.v1 import resource_pb2
from longhaul.training.v1 import training_run_pb2 as pb

from longhaul_training.adapters.run_store import StoredRun
from longhaul_training.convert.common import duration, state_reason, timestamp
from longhaul_training.domain.checkup_record import Finding
from longhaul_training.domain.explanation import Explanation
from longhaul_training.domain.forecasts import forecast_error
from longhaul_training.domain.goodput import TimeLedger, ledger
from longhaul_training.domain.incidents import repair_times
from longhaul_training.domain.observations import AgentView
from longhaul_training.domain.progress import run_progress
from longhaul_training.domain.states import Incident, RecoveryAction, Run, RunState

_STATES = {state: pb.TrainingRunState.Value(f"TRAINING_RUN_STATE_{state.value}") for state in RunState}
_ACTIONS = {action: pb.RecoveryAction.Value(f"RECOVERY_ACTION_{action.value}") for action in RecoveryAction}


def state(value: RunState) -> pb.TrainingRunState.ValueType:
    """A state as its enum value."""
    return _STATES[value]


def run_status(stored: StoredRun, agents: Mapping[str, AgentView], now: float) -> pb.TrainingRunStatus:
    """How far a run is, as of `now`."""
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
        nodes=len(run.members) if control.state.holds_gpus else 0,
        spares_ready=_spares_ready(run, agents),
        checks=[_check(line) for line in control.checklist],
        eta_error=_eta_error(stored, total, times.goodput, now),
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


def _spares_ready(run: Run, agents: Mapping[str, AgentView]) -> int:
    views = (agents.get(run.pod_name(slot)) for slot in run.spares if slot.node)
    return sum(view is not None and view.connected and not view.problems for view in views)


def _check(line: Finding) -> pb.PreflightCheck:
    return pb.PreflightCheck(
        node=line.node, check=line.check, passed=line.passed, message=line.message, value=line.value
    )


def _eta_error(stored: StoredRun, total: int, goodput: float, now: float) -> float:
    control = stored.run.control
    if control.ended_at is not None:
        return forecast_error(control.forecasts, control.ended_at) if control.state is RunState.SUCCEEDED else 0.0
    eta = run_progress(stored.reports, total, goodput).eta_seconds
    return forecast_error(control.forecasts, now + eta) if eta is not None else 0.0


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
            own_step_seconds=worker.own_seconds,
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


def explanation(stored: StoredRun, view: Explanation) -> pb.ExplainTrainingRunResponse:
    """Why a run does not train now, as it is shown."""
    control = stored.run.control
    return pb.ExplainTrainingRunResponse(
        state=state(control.state),
        reason=state_reason(control.reason),
        missing=[
            pb.MissingResource(
                resource=lack.resource,
                needed=lack.needed,
                available=lack.available,
                missing=max(0, lack.needed - lack.available),
                unit=lack.unit,
                message=lack.message,
            )
            for lack in view.missing
        ],
        queue_position=view.position,
        ahead=view.ahead,
    )
