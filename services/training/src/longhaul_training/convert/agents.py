"""The agents' stream: reports in, commands out."""

from __future__ import annotations

from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import DecodeError
from longhaul.training.v1 import agent_pb2, training_run_pb2

from longhaul_training.adapters.commands import Acknowledge, Command, Redirect, Shutdown, StartWorkers, Welcome
from longhaul_training.adapters.metric_journal import Rows
from longhaul_training.adapters.metric_rows import MetricRow
from longhaul_training.adapters.report_store import (
    CheckpointReport,
    EventReport,
    FinishReport,
    NoticeReport,
    Report,
    StepReport,
)
from longhaul_training.convert.common import plain, seconds_of, struct, timestamp
from longhaul_training.domain.actions import PrepareEpoch, RunEvent, StopAfterCheckpoint
from longhaul_training.domain.checkup_record import Finding
from longhaul_training.domain.observations import WorkerView
from longhaul_training.domain.reports import StepRow, WorkerExit

LARGEST_SKEW_SECONDS = 30.0
_KEPT_BY_COLUMNS = ("step", "epoch", "replayed", "sequence")


def report_of(request: agent_pb2.ConnectRequest, pod: str) -> Report:
    """The report of a numbered message."""
    match request.WhichOneof("report"):
        case "step_metrics":
            return StepReport(_rows(request.step_metrics))
        case "worker_exit":
            return _exit(request.worker_exit, pod)
        case "run_finished":
            return FinishReport(request.run_finished.epoch, request.run_finished.step)
        case "checkpoint_committed":
            committed = request.checkpoint_committed
            return CheckpointReport(committed.checkpoint, committed.step, committed.epoch)
        case "event":
            return EventReport(_event(request.event, pod))
        case _:
            return NoticeReport()


def rows_of(data: bytes) -> Rows:
    """The rows of a serialized StepMetricsBatch; raises ValueError when it is damaged."""
    try:
        return _rows(agent_pb2.StepMetricsBatch.FromString(data))
    except DecodeError as error:
        raise ValueError(str(error)) from error


def workers_of(statuses: Any) -> tuple[WorkerView, ...]:
    """The workers that a Join or a Heartbeat names, by rank."""
    views = (
        WorkerView(s.rank, s.phase, s.step, s.silent_seconds, s.process_id, s.local_rank, s.own_seconds)
        for s in statuses
    )
    return tuple(sorted(views, key=lambda view: view.rank))


def response_of(command: Command, term: int) -> agent_pb2.ConnectResponse:
    """A command as a message of the leader's term."""
    response = agent_pb2.ConnectResponse(term=term)
    match command:
        case Welcome():
            response.welcome.acknowledged_sequence = command.acknowledged_sequence
        case Acknowledge():
            response.acknowledge.sequence = command.sequence
        case PrepareEpoch():
            response.prepare_epoch.epoch = command.epoch
            response.prepare_epoch.bind_rendezvous = command.bind_rendezvous
        case StartWorkers():
            response.start_epoch.CopyFrom(_start_epoch(command))
        case StopAfterCheckpoint():
            response.request_checkpoint.epoch = command.epoch
            response.request_checkpoint.stop_after = True
            response.request_checkpoint.reason = command.reason
        case Shutdown():
            response.shutdown.reason = command.reason
        case Redirect():
            response.redirect.leader_address = command.leader_address
    return response


def step_metrics(row: MetricRow) -> training_run_pb2.StepMetrics:
    """A metric row as it is shown."""
    message = training_run_pb2.StepMetrics()
    ParseDict(row.values, message, ignore_unknown_fields=True)
    message.step = row.step
    message.epoch = row.epoch
    message.sequence = row.sequence
    message.replayed = row.replayed
    message.time.CopyFrom(timestamp(row.at.timestamp()))
    return message


def _start_epoch(command: StartWorkers) -> agent_pb2.StartEpoch:
    return agent_pb2.StartEpoch(
        epoch=command.epoch,
        world_size=command.world_size,
        ranks=command.ranks,
        rendezvous_address=command.rendezvous_address,
        trainer_config=struct(command.trainer_config),
        token_set_manifest_key=command.token_set_manifest_key,
        resume_manifest_key=command.resume_manifest_key,
        resume_checkpoint=command.resume_checkpoint,
        program=command.program,
    )


def checks_of(join: agent_pb2.Join, now: float) -> tuple[Finding, ...]:
    """What an agent checked before it joined, and how far its clock is from ours."""
    found = tuple(Finding(join.node, c.check, c.passed, c.message, c.value) for c in join.checks)
    if not join.HasField("time"):
        return found
    skew = seconds_of(join.time) - now
    text = f"the node's clock is {skew:+.1f} s from the controller's"
    return (*found, Finding(join.node, "clock", abs(skew) <= LARGEST_SKEW_SECONDS, text, skew))


def _rows(batch: agent_pb2.StepMetricsBatch) -> Rows:
    return tuple((_step_row(row), _values(row)) for row in batch.rows)


def _step_row(row: training_run_pb2.StepMetrics) -> StepRow:
    return StepRow(
        step=row.step,
        position=row.position or row.step,
        epoch=row.epoch,
        at=seconds_of(row.time),
        loss=row.loss,
        tokens=row.tokens,
        tokens_per_second=row.tokens_per_second,
        step_seconds=row.step_seconds,
        data_wait_seconds=row.data_wait_seconds,
        checkpoint_seconds=row.checkpoint_stall_seconds,
        validation_loss=row.validation_loss if row.HasField("validation_loss") else None,
        repeat_share=row.extra.get("consecutive_chunks", 0.0),
    )


def _values(row: training_run_pb2.StepMetrics) -> dict[str, Any]:
    """All values as protobuf's JSON, which writes NaN and infinities as text."""
    values = MessageToDict(row, preserving_proto_field_name=True)
    return {name: value for name, value in values.items() if name not in (*_KEPT_BY_COLUMNS, "time")}


def _exit(exit_: agent_pb2.WorkerExit, pod: str) -> WorkerExit:
    return WorkerExit(pod, exit_.epoch, exit_.rank, exit_.exit_code, seconds_of(exit_.time), exit_.step, exit_.message)


def _event(event: agent_pb2.AgentEvent, pod: str) -> RunEvent:
    data = {**plain(event.data), "pod": pod, "rank": event.rank, "epoch": event.epoch, "at": seconds_of(event.time)}
    return RunEvent(event.type, event.cause, event.message, data)
