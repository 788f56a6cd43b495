"""Gives back the places of pod groups in Kueue's queues.

Kueue takes a group for finished when all its pods have succeeded; pods that were stopped or lost have not. It
then waits for replacements, keeps the quota, and its finalizers keep the pods. So when each pod of a group is deleted
and ended, the group's Workload is removed: Kueue frees quota and pods. A replacement that comes within one look keeps
the place of its group.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from longhaul_core.clock import Clock
from longhaul_core.cluster.kubernetes.api import Api, Collection, Resource
from longhaul_core.cluster.kubernetes.gangs import KUEUE_GROUP
from longhaul_core.cluster.model import Pod
from longhaul_core.errors import NotFound

VERSION = "kueue.x-k8s.io/v1beta1"
LOST_AFTER = timedelta(seconds=60)
"""After its grace a pod ends; one that still has not is on a node that is gone."""

_Key = tuple[str, str]


@dataclass(slots=True)
class Releases:
    """`look` is called again and again with all pods."""

    api: Api
    clock: Clock
    _over: set[_Key] = field(default_factory=set)

    async def look(self, pods: Iterable[Pod]) -> None:
        """Remove the Workloads of groups that were over at the look before and still are."""
        before, self._over = self._over, over(pods, self.clock.now())
        for namespace, group in sorted(self._over & before):
            with suppress(NotFound):
                await self.api.delete(Collection(Resource.WORKLOADS, namespace, VERSION), group)


def over(pods: Iterable[Pod], now: datetime) -> set[_Key]:
    """Groups, by namespace and name, none of whose pods will do anything more."""
    ended: dict[_Key, bool] = {}
    for pod in pods:
        if (group := pod.labels.get(KUEUE_GROUP)) is not None:
            key = pod.namespace, group
            ended[key] = ended.get(key, True) and _ended(pod, now)
    return {key for key, all_ended in ended.items() if all_ended}


def _ended(pod: Pod, now: datetime) -> bool:
    if not pod.deletion_requested:
        return False
    return pod.phase.terminal or (pod.deletion_deadline is not None and now > pod.deletion_deadline + LOST_AFTER)
