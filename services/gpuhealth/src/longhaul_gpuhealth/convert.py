"""Where protobuf meets the domain."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from longhaul.common.v1 import resource_pb2 as common
from longhaul.gpuhealth.v1 import node_health_pb2 as pb
from longhaul_core.db import EventRow, ResourceRow
from longhaul_core.errors import InvalidArgument

from longhaul_gpuhealth.domain.budget import Budget, BudgetPolicy
from longhaul_gpuhealth.domain.burnin import BurnIn, Measurement
from longhaul_gpuhealth.domain.model import Finding, GpuVerdict, HealthState, NodeVerdict, Remedy, Sample
from longhaul_gpuhealth.domain.ranks import Comparison
from longhaul_gpuhealth.domain.record import Drain, NodeRecord, Override, Repair
from longhaul_gpuhealth.domain.replay import Replay
from longhaul_gpuhealth.domain.rules import Rule, describe, signals_of

_COLLECTION = "nodes/"


def node_name(name: str) -> str:
    """The node of `nodes/{node}`. Raises `InvalidArgument`."""
    node = name.removeprefix(_COLLECTION)
    if not name.startswith(_COLLECTION) or not node or "/" in node:
        description = f"{name!r} is not of the form nodes/NODE"
        raise InvalidArgument(f"name: {description}", reason="NAME_INVALID", violations=[("name", description)])
    return node


def node_health(record: NodeRecord, row: ResourceRow, live: NodeVerdict | None, now: float) -> pb.NodeHealth:
    """A node, with the newest values where this replica has them."""
    gpus = live.gpus if live is not None and live.gpus else record.gpus
    last_scrape = live.last_scrape_time if live is not None and live.last_scrape_time else record.last_scrape_time
    message = pb.NodeHealth(
        metadata=common.Metadata(
            name=_COLLECTION + record.node,
            uid=row.uid,
            revision=row.revision,
            create_time=_stamp(row.created_at.timestamp()),
            update_time=_stamp(row.updated_at.timestamp()),
        ),
        node=record.node,
        state=_state(record.state),
        reason=common.StateReason(code=record.reason.code, message=record.reason.message, action=record.reason.action),
        gpus=[_gpu(gpu) for gpu in gpus],
        findings=[finding(one) for one in record.findings],
        schedulable=record.schedulable,
        state_time=_stamp(record.state_since),
        recent_quarantines=record.recent_quarantines(now),
        pool=record.pool,
    )
    if last_scrape is not None:
        message.last_scrape_time.CopyFrom(_stamp(last_scrape))
    if record.drain is not None:
        message.drain.CopyFrom(_drain(record.drain))
    if record.override is not None:
        message.override.CopyFrom(_override(record.override))
    if record.repair is not None:
        message.repair.CopyFrom(_repair(record.repair))
    if record.burn_in is not None:
        message.burn_in.CopyFrom(_burn_in(record.burn_in))
    return message


def finding(one: Finding) -> pb.Finding:
    """A finding with its evidence."""
    return pb.Finding(
        rule=one.rule,
        rule_version=one.rule_version,
        severity=pb.Severity.Value(f"SEVERITY_{one.severity.name}"),
        action=pb.HealthAction.Value(f"HEALTH_ACTION_{one.action.name}"),
        gpu=one.gpu,
        gpu_uuid=one.gpu_uuid,
        message=f"{one.message} (shadow)" if one.shadow else one.message,
        evidence=[_sample(sample) for sample in one.evidence],
        first_time=_stamp(one.first_time),
        last_time=_stamp(one.last_time),
        active=one.active,
        remedy=_remedy(one.remedy),
    )


def rule(one: Rule) -> pb.Rule:
    """A rule in words."""
    return pb.Rule(
        id=one.id,
        signal=", ".join(signals_of(one.when)),
        condition=describe(one.when),
        severity=pb.Severity.Value(f"SEVERITY_{one.severity.name}"),
        action=pb.HealthAction.Value(f"HEALTH_ACTION_{one.action.name}"),
        shadow=one.shadow,
        description=one.description,
        remedy=_remedy(one.remedy),
        when_idle=one.when_idle,
        overrides=[f"{pattern}: {describe(when)}" for pattern, when in one.overrides],
    )


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


def replay_response(outcome: Replay) -> pb.ReplaySignalsResponse:
    """What a replay found."""
    return pb.ReplaySignalsResponse(
        findings=[finding(one) for one in outcome.findings],
        states={node: _state(state) for node, state in outcome.states.items()},
        quarantined=outcome.quarantined,
        events=[
            common.Event(
                resource=_COLLECTION + node,
                time=_stamp(time),
                type=told.type,
                cause=told.cause,
                message=told.message,
                data=ParseDict(dict(told.data), Struct()),
            )
            for time, node, told in outcome.occurrences
        ],
    )


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


def rank_comparison(comparison: Comparison) -> pb.CompareRanksResponse:
    """The GPUs of a run side by side."""
    ranks = [
        pb.RankComparison(
            rank=one.rank,
            node=one.node,
            gpu=one.gpu,
            state=_state(one.state),
            signals=dict(one.signals),
            deviations=dict(one.deviations),
            rules=one.rules,
        )
        for one in comparison.ranks
    ]
    return pb.CompareRanksResponse(ranks=ranks, medians=dict(comparison.medians))


def budget_status(budget: Budget, policy: BudgetPolicy, nodes: int, now: float) -> pb.BudgetStatus:
    """What is left of the budget."""
    window = Duration()
    window.FromMilliseconds(int(policy.window_seconds * 1000))
    return pb.BudgetStatus(
        nodes=nodes,
        quarantined_in_window=budget.granted_in_window(policy, now),
        limit_in_window=policy.limit_in_window(nodes),
        window=window,
        breaker_open=budget.breaker_opened_at is not None,
        waiting=budget.waiting,
    )


def events(rows: Iterable[EventRow]) -> list[common.Event]:
    """Events of a node."""
    return [
        common.Event(
            revision=row.revision,
            resource=_COLLECTION + row.id,
            time=_stamp(row.at.timestamp()),
            type=row.type,
            cause=row.cause,
            message=row.message,
            data=ParseDict(row.data, Struct()),
        )
        for row in rows
    ]


def _gpu(gpu: GpuVerdict) -> pb.GpuHealth:
    message = pb.GpuHealth(
        index=gpu.index, uuid=gpu.uuid, model=gpu.model, state=_state(gpu.state), signals=dict(gpu.signals)
    )
    if gpu.job is not None:
        job = gpu.job
        message.job.CopyFrom(
            pb.GpuJob(namespace=job.namespace, pod=job.pod, project=job.project, run=job.run, rank=job.rank)
        )
    return message


def _repair(repair: Repair) -> pb.Repair:
    return pb.Repair(
        session=repair.session,
        stage=pb.RepairStage.Value(f"REPAIR_STAGE_{repair.stage.name}"),
        since=_stamp(repair.since),
        remedy=_remedy(repair.remedy),
        message=repair.message,
    )


def _burn_in(burn_in: BurnIn) -> pb.BurnIn:
    message = pb.BurnIn(
        session=burn_in.session,
        request_time=_stamp(burn_in.requested_at),
        author=burn_in.author,
        passed=burn_in.passed,
        message=burn_in.message,
        device=burn_in.device,
        measurements=[
            pb.BurnInMeasurement(gpu=one.gpu, name=one.name, value=one.value, unit=one.unit)
            for one in burn_in.measurements
        ],
    )
    if burn_in.reported_at is not None:
        message.report_time.CopyFrom(_stamp(burn_in.reported_at))
    return message


def _remedy(remedy: Remedy) -> Any:
    return pb.Remedy.Value(f"REMEDY_{remedy.name}")


def _drain(drain: Drain) -> pb.DrainRequest:
    message = pb.DrainRequest(
        session=drain.session,
        request_time=_stamp(drain.requested_at),
        computes=drain.computes,
        cause=drain.cause,
        acknowledged_by=drain.acknowledged_by,
        acknowledgement=drain.acknowledgement,
    )
    if drain.acknowledged_at is not None:
        message.acknowledge_time.CopyFrom(_stamp(drain.acknowledged_at))
    return message


def _override(override: Override) -> pb.NodeOverride:
    message = pb.NodeOverride(state=_state(override.state), reason=override.reason, author=override.author)
    if override.expires_at is not None:
        message.expire_time.CopyFrom(_stamp(override.expires_at))
    return message


def _sample(sample: Sample) -> pb.SignalSample:
    return pb.SignalSample(
        node=sample.node,
        gpu=sample.gpu,
        signal=sample.signal,
        value=sample.value,
        time=_stamp(sample.time),
        labels=dict(sample.labels),
    )


def _state(state: HealthState) -> Any:
    return pb.HealthState.Value(f"HEALTH_STATE_{state.value}")


def _stamp(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(datetime.fromtimestamp(seconds, UTC))
    return stamp
