"""Metric rows in the protocol of the controller. Free of torch."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from longhaul.training.v1 import training_run_pb2

from longhaul_trainer.wire import StepRow


def timestamp(seconds: float) -> Timestamp:
    """Unix time as a protobuf timestamp."""
    stamp = Timestamp()
    stamp.FromNanoseconds(int(seconds * 1e9))
    return stamp


def step_metrics(row: StepRow, epoch: int) -> training_run_pb2.StepMetrics:
    """One metric row."""
    return training_run_pb2.StepMetrics(
        step=row.step,
        position=row.position,
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
