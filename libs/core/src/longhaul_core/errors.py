"""The errors that the whole system raises: one tree, each with a code, a reason, metadata and what to do next.

The domain raises these; `longhaul_core.rpc` carries them over the wire as `google.rpc.Status` and back.
"""

# ruff: noqa: N818 - the classes bear the names of the codes

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import ClassVar

ERROR_DOMAIN = "longhaul.dev"
"""The `ErrorInfo.domain` of every error of this system."""

Violation = tuple[str, str]
"""A field (dotted path) and what is wrong with its value."""


class ErrorCode(Enum):
    """The canonical codes, under the names that gRPC gives them."""

    CANCELLED = "CANCELLED"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"
    UNAUTHENTICATED = "UNAUTHENTICATED"


class LonghaulError(Exception):
    """An error that a person or a program can act on.

    Attributes:
        message: What was wrong, with the value that was wrong.
        reason: UPPER_SNAKE name that programs branch on.
        metadata: Further facts as strings.
        action: What to do next; empty where nothing helps.
    """

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL
    default_reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        action: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata = dict(metadata or {})
        self.action = action

    def __str__(self) -> str:
        return f"{self.message} ({self.action})" if self.action else self.message


class InvalidArgument(LonghaulError):
    """The request can never succeed as it is written; `violations` names each wrong field."""

    code = ErrorCode.INVALID_ARGUMENT
    default_reason = "INVALID_ARGUMENT"

    def __init__(
        self,
        message: str,
        *,
        violations: Sequence[Violation] = (),
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        action: str = "",
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata, action=action)
        self.violations = tuple(violations)


class NotFound(LonghaulError):
    """What was named does not exist."""

    code = ErrorCode.NOT_FOUND
    default_reason = "NOT_FOUND"


class AlreadyExists(LonghaulError):
    """What should be made is there already, and is another thing than was asked for."""

    code = ErrorCode.ALREADY_EXISTS
    default_reason = "ALREADY_EXISTS"


class FailedPrecondition(LonghaulError):
    """The system is not in the state that the request needs."""

    code = ErrorCode.FAILED_PRECONDITION
    default_reason = "FAILED_PRECONDITION"


class Aborted(LonghaulError):
    """Another writer was first; read again and decide anew."""

    code = ErrorCode.ABORTED
    default_reason = "CONFLICT"


class ResourceExhausted(LonghaulError):
    """A quota, a disk or a memory is full."""

    code = ErrorCode.RESOURCE_EXHAUSTED
    default_reason = "RESOURCE_EXHAUSTED"


class Unavailable(LonghaulError):
    """The service cannot answer now; the same request may succeed after `retry_after_seconds`."""

    code = ErrorCode.UNAVAILABLE
    default_reason = "UNAVAILABLE"

    def __init__(
        self,
        message: str,
        *,
        retry_after_seconds: float = 1.0,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        action: str = "",
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata, action=action)
        self.retry_after_seconds = retry_after_seconds


class PermissionDenied(LonghaulError):
    """The caller is known and may not do this."""

    code = ErrorCode.PERMISSION_DENIED
    default_reason = "PERMISSION_DENIED"


class Unauthenticated(LonghaulError):
    """The caller gave no credentials, or wrong ones."""

    code = ErrorCode.UNAUTHENTICATED
    default_reason = "UNAUTHENTICATED"


class DataLoss(LonghaulError):
    """Stored bytes are missing or differ from their digest."""

    code = ErrorCode.DATA_LOSS
    default_reason = "DATA_LOSS"


class Internal(LonghaulError):
    """A defect of this program; the log has the details."""

    code = ErrorCode.INTERNAL
    default_reason = "INTERNAL"


class DeadlineExceeded(LonghaulError):
    """The time given for the request ran out."""

    code = ErrorCode.DEADLINE_EXCEEDED
    default_reason = "DEADLINE_EXCEEDED"


class Cancelled(LonghaulError):
    """The caller took the request back."""

    code = ErrorCode.CANCELLED
    default_reason = "CANCELLED"


ERROR_CLASSES: Mapping[ErrorCode, type[LonghaulError]] = {
    cls.code: cls
    for cls in (
        Cancelled,
        InvalidArgument,
        DeadlineExceeded,
        NotFound,
        AlreadyExists,
        PermissionDenied,
        ResourceExhausted,
        FailedPrecondition,
        Aborted,
        Internal,
        Unavailable,
        DataLoss,
        Unauthenticated,
    )
}
"""The class of each code."""
