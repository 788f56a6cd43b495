"""From worker messages to the protocol of the controller."""

from __future__ import annotations

import time

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from longhaul.training.v1 import agent_pb2, training_run_pb2

from longhaul_trainer.wire import Committed, Event, StepRow


def timestamp(seconds: float) -> Timestamp:
    """Unix time as a protobuf timestamp."""
    stamp = Timestamp()
    stamp.FromNanoseconds(int(seconds * 1e9))
    return stamp


def step_metrics(row: StepRow, epoch: int) -> training_run_pb2.StepMetrics:
    """One metric row."""
    return training_run_pb2.StepMetrics(
        step=row.step,
        epoch=epoch,
        time=timestamp(row.time),
        loss=row.loss,
        learning_rate=row.learning_rate,
        gradient_norm=row.gradient_norm,
        tokens=row.tokens,
        tokens_per_second=row.tokens_per_second,
        step_seconds=row.step_seconds,
        data_wait_seconds=row.data_wait_seconds,
        checkpoint_stall_seconds=row.checkpoint_stall_seconds,
        validation_loss=row.validation_loss,
        mfu=row.mfu,
        extra=row.extra,
    )


def agent_event(event: Event, epoch: int, rank: int) -> agent_pb2.ConnectRequest:
    """An event of the run."""
    data = Struct()
    data.update(event.data)
    return agent_pb2.ConnectRequest(
        event=agent_pb2.AgentEvent(
            type=event.kind,
            cause=event.cause,
            message=event.message,
            data=data,
            time=timestamp(event.time),
            epoch=epoch,
            rank=rank,
        )
    )


def checkpoint_committed(committed: Committed, epoch: int) -> agent_pb2.ConnectRequest:
    """A commit that rank 0 saw."""
    return agent_pb2.ConnectRequest(
        checkpoint_committed=agent_pb2.CheckpointCommitted(
            checkpoint=committed.checkpoint,
            step=committed.step,
            epoch=epoch,
            stall_seconds=committed.stall_seconds,
            write_seconds=committed.write_seconds,
        )
    )


def worker_exit(epoch: int, rank: int, code: int, step: int, message: str) -> agent_pb2.ConnectRequest:
    """The end of a worker, now."""
    return agent_pb2.ConnectRequest(
        worker_exit=agent_pb2.WorkerExit(
            epoch=epoch, rank=rank, exit_code=code, time=timestamp(time.time()), step=step, message=message
        )
    )
