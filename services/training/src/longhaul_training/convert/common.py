"""Messages that several resources share."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from longhaul.common.v1 import resource_pb2
from longhaul_core.db import EventRow, ResourceRow
from longhaul_core.rpc.times import timestamp_of

from longhaul_training.domain.states import Reason


def timestamp(seconds: float) -> Timestamp:
    """Unix seconds as a Timestamp."""
    return timestamp_of(datetime.fromtimestamp(seconds, UTC))


def seconds_of(stamp: Timestamp) -> float:
    """A Timestamp as Unix seconds."""
    return stamp.seconds + stamp.nanos / 1e9


def duration(seconds: float) -> Duration:
    """Seconds as a Duration."""
    span = Duration()
    span.FromNanoseconds(int(seconds * 1e9))
    return span


def metadata(row: ResourceRow, name: str) -> resource_pb2.Metadata:
    """The metadata of a row."""
    return resource_pb2.Metadata(
        name=name,
        uid=row.uid,
        revision=row.revision,
        fingerprint=row.fingerprint,
        create_time=timestamp(row.created_at.timestamp()),
        update_time=timestamp(row.updated_at.timestamp()),
    )


def state_reason(reason: Reason) -> resource_pb2.StateReason:
    """Why a resource is in its state."""
    return resource_pb2.StateReason(code=reason.code, message=reason.message, action=reason.action)


def change_type(row: ResourceRow) -> resource_pb2.ChangeType.ValueType:
    """What a watch says of a row."""
    return resource_pb2.CHANGE_TYPE_DELETED if row.deleted else resource_pb2.CHANGE_TYPE_UPDATED


def event(row: EventRow, resource: str) -> resource_pb2.Event:
    """An event of a resource."""
    return resource_pb2.Event(
        revision=row.revision,
        resource=resource,
        time=timestamp(row.at.timestamp()),
        type=row.type,
        cause=row.cause,
        message=row.message,
        data=struct(row.data),
    )


def struct(values: Mapping[str, Any]) -> Struct:
    """JSON values as a Struct."""
    message = Struct()
    message.update(dict(values))
    return message


def plain(message: Struct) -> dict[str, Any]:
    """A Struct as JSON values; whole numbers are integers again, since JSON knows no difference but Python does."""
    return {key: whole(value) for key, value in MessageToDict(message).items()}


def plain_value(message: Value) -> Any:
    """A Value as a JSON value."""
    return whole(MessageToDict(message))


def whole(value: Any) -> Any:
    """Floats without fraction as integers, at any depth."""
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
