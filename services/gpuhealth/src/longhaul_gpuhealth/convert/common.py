"""Values that several messages share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from longhaul.gpuhealth.v1 import node_health_pb2 as pb
from longhaul_core.rpc.times import timestamp_of

from longhaul_gpuhealth.domain.model import HealthState, Remedy

COLLECTION = "nodes/"


def remedy_value(remedy: Remedy) -> Any:
    """A remedy as its enum value."""
    return pb.Remedy.Value(f"REMEDY_{remedy.name}")


def state_value(state: HealthState) -> Any:
    """A state as its enum value."""
    return pb.HealthState.Value(f"HEALTH_STATE_{state.value}")


def stamp(seconds: float) -> Timestamp:
    """Seconds since the epoch as a message."""
    return timestamp_of(datetime.fromtimestamp(seconds, UTC))
