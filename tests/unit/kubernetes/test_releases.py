"""When the place of a pod group in Kueue's queue is given back."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from longhaul_core.clock import SystemClock
from longhaul_core.cluster import Pod, PodPhase
from longhaul_core.cluster.kubernetes.gangs import KUEUE_GROUP
from longhaul_core.cluster.kubernetes.releases import LOST_AFTER, Releases, over
from longhaul_core.errors import NotFound

NOW = datetime(2026, 11, 22, tzinfo=UTC)
GROUP = {KUEUE_GROUP: "r1-1"}
LIVE = Pod("p0", "u0", "team-a", PodPhase.RUNNING, labels=GROUP)
ENDED = replace(LIVE, name="p1", phase=PodPhase.FAILED, deletion_requested=True, deletion_deadline=NOW)
IN_GRACE = replace(ENDED, phase=PodPhase.RUNNING, deletion_deadline=NOW + timedelta(seconds=20))


@pytest.mark.parametrize(
    ("pods", "after", "found"),
    [
        ([LIVE, ENDED], timedelta(), set()),
        ([replace(ENDED, deletion_requested=False)], timedelta(), set()),
        ([ENDED, IN_GRACE], timedelta(), set()),
        ([ENDED, replace(ENDED, name="p2")], timedelta(), {("team-a", "r1-1")}),
        ([replace(ENDED, phase=PodPhase.UNKNOWN)], timedelta(seconds=1), set()),
        ([replace(ENDED, phase=PodPhase.UNKNOWN)], LOST_AFTER + timedelta(seconds=1), {("team-a", "r1-1")}),
        ([replace(ENDED, labels={})], timedelta(), set()),
    ],
)
def test_group_is_over_when_each_pod_is_deleted_and_ended(pods: list[Pod], after: timedelta, found: set[Any]) -> None:
    assert over(pods, NOW + after) == found


class Recorder:
    """Takes deletions; there is nothing to delete the second time."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def delete(self, collection: Any, name: str) -> None:
        path = collection.object_path(name)
        self.paths.append(path)
        if self.paths.count(path) > 1:
            raise NotFound("gone")


async def test_replacement_within_one_look_keeps_the_place() -> None:
    api: Any = Recorder()
    releases = Releases(api, SystemClock())
    await releases.look([ENDED])
    await releases.look([ENDED, LIVE])
    assert api.paths == []
    for _ in range(3):
        await releases.look([ENDED])
    assert set(api.paths) == {"/apis/kueue.x-k8s.io/v1beta1/namespaces/team-a/workloads/r1-1"}
