"""Rules, replays, comparisons, the budget and events, as messages."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from longhaul.common.v1 import resource_pb2 as common
from longhaul.gpuhealth.v1 import node_health_pb2 as pb
from longhaul_core.db import EventRow

from longhaul_gpuhealth.convert.common import COLLECTION, remedy_value, stamp, state_value
from longhaul_gpuhealth.convert.nodes import finding
from longhaul_gpuhealth.domain.budget import Budget, BudgetPolicy
from longhaul_gpuhealth.domain.ranks import Comparison
from longhaul_gpuhealth.domain.replay import Replay
from longhaul_gpuhealth.domain.rules import Rule, describe, signals_of


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
        remedy=remedy_value(one.remedy),
        when_idle=one.when_idle,
        overrides=[f"{pattern}: {describe(when)}" for pattern, when in one.overrides],
    )


def replay_response(outcome: Replay) -> pb.ReplaySignalsResponse:
    """What a replay found."""
    return pb.ReplaySignalsResponse(
        findings=[finding(one) for one in outcome.findings],
        states={node: state_value(state) for node, state in outcome.states.items()},
        quarantined=outcome.quarantined,
        events=[
            common.Event(
                resource=COLLECTION + node,
                time=stamp(time),
                type=told.type,
                cause=told.cause,
                message=told.message,
                data=ParseDict(dict(told.data), Struct()),
            )
            for time, node, told in outcome.occurrences
        ],
    )


def rank_comparison(comparison: Comparison) -> pb.CompareRanksResponse:
    """The GPUs of a run side by side."""
    ranks = [
        pb.RankComparison(
            rank=one.rank,
            node=one.node,
            gpu=one.gpu,
            state=state_value(one.state),
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
            resource=COLLECTION + row.id,
            time=stamp(row.at.timestamp()),
            type=row.type,
            cause=row.cause,
            message=row.message,
            data=ParseDict(row.data, Struct()),
        )
        for row in rows
    ]
