"""From an exception to the exit code by which the controller chooses a repair."""

from __future__ import annotations

import torch
from longhaul_core.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from torch.distributed import DistError

from longhaul_trainer.exit_codes import ExitCode
from longhaul_trainer.loop.stops import AnomalyStop, AttemptFailed, Preempted

_COLLECTIVE_MARKS = ("gloo", "nccl", "connection closed by peer", "connection reset", "process group", "tcpstore")
_DATA_REASONS = ("SEQUENCE_LONGER_THAN_SOURCE", "EPOCHS_EXCEEDED")
_BY_TYPE: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], ExitCode], ...] = (
    (Preempted, ExitCode.PREEMPTED),
    (AnomalyStop, ExitCode.ANOMALY),
    ((AttemptFailed, Unavailable, DistError), ExitCode.RETRY),
    (InvalidArgument, ExitCode.CONFIGURATION),
    ((DataLoss, NotFound), ExitCode.DATA),
    ((MemoryError, torch.OutOfMemoryError), ExitCode.OUT_OF_MEMORY),
)


def exit_code_of(error: BaseException) -> ExitCode:
    """The code to exit with after this error."""
    if isinstance(error, FailedPrecondition):
        return _precondition(error)
    for types, code in _BY_TYPE:
        if isinstance(error, types):
            return code
    text = str(error).lower()
    if isinstance(error, RuntimeError) and any(mark in text for mark in _COLLECTIVE_MARKS):
        return ExitCode.RETRY
    return ExitCode.INTERNAL


def _precondition(error: FailedPrecondition) -> ExitCode:
    if error.reason == "GATE_FAILED":
        return ExitCode.GATE_FAILED
    return ExitCode.DATA if error.reason in _DATA_REASONS else ExitCode.CONFIGURATION
