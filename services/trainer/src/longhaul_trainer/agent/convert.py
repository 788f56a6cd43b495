"""From worker messages to the protocol of the controller."""

from __future__ import annotations

import time

from google.protobuf.struct_pb2 import Struct
from longhaul.training.v1 import agent_pb2

from longhaul_trainer.metrics import timestamp
from longhaul_trainer.wire import Committed, Event


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
