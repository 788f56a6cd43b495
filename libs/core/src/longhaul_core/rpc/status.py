"""Errors on the wire: `google.rpc.Status` with one `ErrorInfo` and the detail that fits, both ways."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from longhaul_core.errors import (
    ERROR_CLASSES,
    ERROR_DOMAIN,
    ErrorCode,
    FailedPrecondition,
    InvalidArgument,
    LonghaulError,
    Unavailable,
)

DETAILS_KEY = "grpc-status-details-bin"
"""The trailing metadata that carries a serialized `google.rpc.Status`."""

_ACTION_KEY = "action"
MAXIMUM_BYTES = 5120
"""Of a serialized status. With the short message beside it, it stays below the 8 KiB of headers that clients accept."""

_SIZES = ((1500, 300, 16), (1000, 150, 12), (600, 60, 8), (300, 30, 4), (100, 20, 2))
"""Characters of the message and of each other text, and entries of each list: the first that fits is sent."""


def to_status(error: LonghaulError) -> status_pb2.Status:
    """Return an error as it goes over the wire, cut to what a trailer can hold."""
    status = status_pb2.Status()
    for message_characters, characters, entries in _SIZES:
        status = status_pb2.Status(code=grpc_code(error.code).value[0], message=cut(error.message, message_characters))
        for detail in _details(error, characters, entries):
            status.details.add().Pack(detail)
        if status.ByteSize() <= MAXIMUM_BYTES:
            break
    return status


def from_status(status: status_pb2.Status) -> LonghaulError:
    """Return the error that `to_status` was given; details of other servers are read as far as they go."""
    info, violations, retry_seconds = error_details_pb2.ErrorInfo(), [], 1.0
    bad_request, retry_info = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in status.details:
        detail.Unpack(info)
        if detail.Unpack(bad_request):
            violations = [(item.field, item.description) for item in bad_request.field_violations]
        if detail.Unpack(retry_info):
            retry_seconds = retry_info.retry_delay.ToTimedelta().total_seconds()
    metadata = dict(info.metadata)
    action = metadata.pop(_ACTION_KEY, "")
    code = _error_code(status.code)
    common: dict[str, Any] = {"reason": info.reason, "metadata": metadata, "action": action}
    if code is ErrorCode.INVALID_ARGUMENT:
        return InvalidArgument(status.message, violations=violations, **common)
    if code is ErrorCode.UNAVAILABLE:
        return Unavailable(status.message, retry_after_seconds=retry_seconds, **common)
    return ERROR_CLASSES[code](status.message, **common)


def grpc_code(code: ErrorCode) -> grpc.StatusCode:
    """Return gRPC's code of the same name."""
    return grpc.StatusCode[code.name]


def cut(text: str, characters: int) -> str:
    """Return a text, shortened with an ellipsis where it is longer."""
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _details(error: LonghaulError, characters: int, entries: int) -> list[Any]:
    metadata = {key[:characters]: cut(value, characters) for key, value in list(error.metadata.items())[:entries]}
    if error.action:
        metadata[_ACTION_KEY] = cut(error.action, 2 * characters)
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN, metadata=metadata)]
    if isinstance(error, InvalidArgument) and error.violations:
        fields = [
            error_details_pb2.BadRequest.FieldViolation(field=field, description=cut(text, characters))
            for field, text in error.violations[:entries]
        ]
        details.append(error_details_pb2.BadRequest(field_violations=fields))
    if isinstance(error, FailedPrecondition):
        violation = error_details_pb2.PreconditionFailure.Violation(
            type=error.reason,
            subject=cut(next(iter(error.metadata.values()), ""), characters),
            description=cut(error.message, characters),
        )
        details.append(error_details_pb2.PreconditionFailure(violations=[violation]))
    if isinstance(error, Unavailable):
        delay = Duration()
        delay.FromMilliseconds(int(error.retry_after_seconds * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return details


def _error_code(number: int) -> ErrorCode:
    for code in grpc.StatusCode:
        if code.value[0] == number and code.name in ErrorCode.__members__:
            return ErrorCode[code.name]
    return ErrorCode.INTERNAL
