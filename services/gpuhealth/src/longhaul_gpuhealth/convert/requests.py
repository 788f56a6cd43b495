"""What requests mean, or what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

from longhaul.gpuhealth.v1 import node_health_pb2 as pb
from longhaul_core.errors import InvalidArgument

from longhaul_gpuhealth.convert.common import COLLECTION
from longhaul_gpuhealth.domain.burnin import Measurement
from longhaul_gpuhealth.domain.model import HealthState, Sample
from longhaul_gpuhealth.domain.record import Override


def node_name(name: str) -> str:
    """The node of `nodes/{node}`. Raises `InvalidArgument`."""
    node = name.removeprefix(COLLECTION)
    if not name.startswith(COLLECTION) or not node or "/" in node:
        description = f"{name!r} is not of the form nodes/NODE"
        raise InvalidArgument(f"name: {description}", reason="NAME_INVALID", violations=[("name", description)])
    return node


def override_from(message: pb.NodeOverride) -> Override:
    """An operator's word. Raises `InvalidArgument`."""
    violations = []
    if message.state not in (pb.HEALTH_STATE_HEALTHY, pb.HEALTH_STATE_QUARANTINED):
        violations.append(("override.state", "must be HEALTHY or QUARANTINED"))
    if not message.reason:
        violations.append(("override.reason", "must say why"))
    if not message.author:
        violations.append(("override.author", "must say who"))
    if violations:
        detail = "; ".join(f"{field} {description}" for field, description in violations)
        raise InvalidArgument(detail, reason="OVERRIDE_INVALID", violations=violations)
    expires = message.expire_time.ToMicroseconds() / 1e6 if message.HasField("expire_time") else None
    return Override(health_state(message.state), message.reason, message.author, expires)


def health_state(value: int) -> HealthState:
    """The state of an enum value. Raises `InvalidArgument`."""
    try:
        return HealthState(pb.HealthState.Name(cast(Any, value)).removeprefix("HEALTH_STATE_"))
    except ValueError:
        raise InvalidArgument(f"{value} is no state", violations=[("states", f"{value} is no state")]) from None


def sample_from(message: pb.SignalSample) -> Sample:
    """A recorded sample."""
    time = message.time.ToMicroseconds() / 1e6
    return Sample(message.node, message.gpu, message.signal, message.value, time, dict(message.labels))


def run_name(name: str) -> tuple[str, str]:
    """Project and id of `projects/{project}/trainingRuns/{run}`. Raises `InvalidArgument`."""
    match name.split("/"):
        case ["projects", project, "trainingRuns", run] if project and run:
            return project, run
    description = f"{name!r} is not of the form projects/PROJECT/trainingRuns/RUN"
    raise InvalidArgument(f"run: {description}", reason="NAME_INVALID", violations=[("run", description)])


def measurements_from(messages: Iterable[pb.BurnInMeasurement]) -> tuple[Measurement, ...]:
    """Figures of a burn-in. Raises `InvalidArgument` for one that is no figure."""
    found = tuple(Measurement(one.gpu, one.name, one.value, one.unit) for one in messages)
    wrong = [one.name for one in found if not one.name or not math.isfinite(one.value) or one.value < 0]
    if wrong:
        description = f"{wrong} are no finite figures of zero or more with a name"
        raise InvalidArgument(f"measurements: {description}", violations=[("measurements", description)])
    return found
