"""When a pod that is stuck on a dead node may be removed by force."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from longhaul_core.cluster import Node, Pod, PodPhase, Taint, TaintEffect
from longhaul_core.cluster.liveness import OUT_OF_SERVICE, Death, LivenessRule, may_force_delete

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RULE = LivenessRule(silence=60.0, staleness=45.0)
HEALTHY = Node(name="n0", uid="n", ready=True, gpus_total=8, resource_version="1")
SILENT = replace(HEALTHY, ready=False, silent_since=NOW - timedelta(seconds=90))
UNREADY = replace(HEALTHY, ready=False)
OFF = replace(SILENT, silent_since=NOW, taints=(Taint(OUT_OF_SERVICE, "nodeshutdown", TaintEffect.NO_EXECUTE),))
STUCK = Pod(
    name="p",
    uid="u",
    namespace="a",
    phase=PodPhase.UNKNOWN,
    node="n0",
    deletion_requested=True,
    deletion_deadline=NOW - timedelta(seconds=1),
)


@pytest.mark.parametrize(
    ("pod", "node", "staleness", "heard_seconds_ago", "death"),
    [
        (STUCK, SILENT, 1.0, None, Death.SILENT),
        (STUCK, None, 1.0, None, Death.REMOVED),
        (STUCK, OFF, 1.0, None, Death.OUT_OF_SERVICE),
        (STUCK, HEALTHY, 1.0, None, None),
        (STUCK, UNREADY, 1.0, None, None),
        (STUCK, replace(SILENT, silent_since=NOW - timedelta(seconds=59)), 1.0, None, None),
        (STUCK, SILENT, 46.0, None, None),
        (STUCK, None, 46.0, None, None),
        (STUCK, SILENT, 1.0, 30, None),
        (STUCK, SILENT, 1.0, 61, Death.SILENT),
        (replace(STUCK, deletion_requested=False), SILENT, 1.0, None, None),
        (replace(STUCK, deletion_deadline=NOW + timedelta(seconds=1)), SILENT, 1.0, None, None),
        (replace(STUCK, deletion_deadline=None), SILENT, 1.0, None, Death.SILENT),
        (replace(STUCK, node=None), None, 1.0, None, None),
    ],
)
def test_force_delete_needs_a_proven_death(
    pod: Pod, node: Node | None, staleness: float, heard_seconds_ago: float | None, death: Death | None
) -> None:
    heard = None if heard_seconds_ago is None else NOW - timedelta(seconds=heard_seconds_ago)
    assert may_force_delete(pod, node, now=NOW, staleness=staleness, heard_at=heard, rule=RULE) is death
