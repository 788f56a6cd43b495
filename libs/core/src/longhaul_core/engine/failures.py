"""What can go wrong with a task, and how an exception travels from a worker to the caller."""

import pickle
import traceback
from dataclasses import dataclass

from longhaul_core.errors import (
    ERROR_CLASSES,
    ErrorCode,
    Internal,
    InvalidArgument,
    LonghaulError,
    ResourceExhausted,
    Unavailable,
    Violation,
)


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """An exception as plain data: it can be pickled whatever the exception was."""

    error_type: str
    message: str
    traceback_text: str
    code: str = ErrorCode.INTERNAL.value
    reason: str = "TASK_FAILED"
    metadata: tuple[tuple[str, str], ...] = ()
    action: str = ""
    violations: tuple[Violation, ...] = ()


class RemoteTaskError(LonghaulError):
    """A task raised. Code, reason, metadata and action are those of the task's error where it was one of longhaul's.

    Attributes:
        error_type: Name of the exception's class in the worker.
        traceback_text: The worker's traceback, for the log.
        error: The task's error rebuilt in its own class; Internal where it was none of longhaul's.
    """

    default_reason = "TASK_FAILED"

    def __init__(self, record: ErrorRecord) -> None:
        super().__init__(record.message, reason=record.reason, metadata=dict(record.metadata), action=record.action)
        self.error_type = record.error_type
        self.traceback_text = record.traceback_text
        self.error = _rebuild(record)
        vars(self)["code"] = self.error.code  # a class variable elsewhere; here it is the remote error's


class WorkerDied(Unavailable):
    """The process that ran the task ended without an answer: killed, crashed, out of memory."""

    default_reason = "WORKER_DIED"

    def __init__(self, task: str, *, exit_code: int | None = None, signal: int | None = None, detail: str = "") -> None:
        cause = f"signal {signal}" if signal is not None else f"exit code {exit_code}" if exit_code is not None else ""
        super().__init__(
            f"The worker of task {task} died ({detail or cause or 'cause unknown'}).",
            metadata={"task": task, "exit_code": _text(exit_code), "signal": _text(signal)},
        )
        self.exit_code = exit_code
        self.signal = signal


class WorkerMemoryExceeded(ResourceExhausted):
    """The task was killed because its process tree held more memory than its limit."""

    default_reason = "WORKER_MEMORY_EXCEEDED"

    def __init__(self, task: str, *, limit_bytes: int, used_bytes: int) -> None:
        super().__init__(
            f"Task {task} held {used_bytes} bytes of memory, more than its limit of {limit_bytes}.",
            metadata={"task": task, "limit_bytes": str(limit_bytes), "used_bytes": str(used_bytes)},
            action="Give the task smaller shards, or raise the memory limit of the workers.",
        )


WORKER_ENDED = frozenset({WorkerDied.default_reason, WorkerMemoryExceeded.default_reason})
"""Reasons of failures in which the work took its worker down."""


class TaskNotStarted(Exception):  # noqa: N818  an outcome, caught by the engine alone
    """The worker was dead before it had the task: the task may safely go to another worker."""


def record_error(error: BaseException) -> ErrorRecord:
    """Describe an exception in the worker."""
    text = "".join(traceback.format_exception(error))
    name = type(error).__qualname__
    if not isinstance(error, LonghaulError):
        return ErrorRecord(name, f"{name}: {error}", text)
    violations = error.violations if isinstance(error, InvalidArgument) else ()
    metadata = tuple(error.metadata.items())
    return ErrorRecord(name, error.message, text, error.code.value, error.reason, metadata, error.action, violations)


def pickle_payload(task: str, payload: object) -> bytes:
    """Pickle a payload. Raises InvalidArgument where it cannot be."""
    try:
        return pickle.dumps(payload, protocol=pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise InvalidArgument(
            f"The payload of task {task} cannot be pickled: {error}.", reason="TASK_PAYLOAD_NOT_PICKLABLE"
        ) from error


def _rebuild(record: ErrorRecord) -> LonghaulError:
    cls = ERROR_CLASSES.get(ErrorCode(record.code), Internal)
    metadata = dict(record.metadata)
    if cls is InvalidArgument:
        return InvalidArgument(
            record.message,
            violations=record.violations,
            reason=record.reason,
            metadata=metadata,
            action=record.action,
        )
    return cls(record.message, reason=record.reason, metadata=metadata, action=record.action)


def _text(number: int | None) -> str:
    return "" if number is None else str(number)
