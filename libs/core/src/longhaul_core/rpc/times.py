"""Times as messages."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_SECONDS = 86_400


def timestamp_of(moment: datetime) -> Timestamp:
    """A time with its zone as a message: every resource carries two, and `FromDatetime` takes three times as long."""
    passed = moment - _EPOCH
    return Timestamp(seconds=passed.days * _DAY_SECONDS + passed.seconds, nanos=passed.microseconds * 1000)
