"""Why a pod does not start although it has a node: only events tell of volumes that cannot be mounted.

Costs one call a pod that has been waiting for a while, and again now and then while it still waits; a pod that starts
in time costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from longhaul_core.clock import Clock
from longhaul_core.cluster.kubernetes.api import Api, Collection, Raw, Resource
from longhaul_core.cluster.kubernetes.reasons import MISSING_REFERENCE
from longhaul_core.cluster.kubernetes.timing import Timing
from longhaul_core.cluster.model import Pod, PodPhase, PodReason
from longhaul_core.errors import LonghaulError
from longhaul_core.logging import get_logger

PODS_A_ROUND = 8

_PROBLEMS: Mapping[str, PodReason] = {
    "FailedMount": PodReason.MOUNT_FAILED,
    "FailedAttachVolume": PodReason.MOUNT_FAILED,
    "FailedCreatePodSandBox": PodReason.START_ERROR,
    "FailedToRetrieveImagePullSecret": PodReason.SECRET_MISSING,
    "NetworkNotReady": PodReason.START_ERROR,
}

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What events said of a pod that waits."""

    reason: str
    message: str


@dataclass(slots=True)
class Explainer:
    """Explanations by pod UID, renewed by `renew`."""

    api: Api
    clock: Clock
    timing: Timing
    _since: dict[str, float] = field(default_factory=dict)
    _asked: dict[str, float] = field(default_factory=dict)
    _found: dict[str, Explanation] = field(default_factory=dict)

    def explained(self, pod: Pod) -> Pod:
        """The pod with the reason that events gave, if it has none of its own."""
        found = self._found.get(pod.uid)
        if found is None or not _unexplained(pod):
            return pod
        return replace(pod, reason=found.reason, message=found.message)

    async def renew(self, pods: list[Pod]) -> list[Pod]:
        """Ask about those of `pods` that have waited for too long; returns those with a new explanation."""
        waiting = {pod.uid: pod for pod in pods if _unexplained(pod)}
        now = self.clock.monotonic()
        for known in (self._since, self._asked, self._found):
            for uid in known.keys() - waiting.keys():
                known.pop(uid)
        for uid in waiting:
            self._since.setdefault(uid, now)
        due = [uid for uid in waiting if now >= self._due(uid)]
        due.sort(key=self._due)
        return [waiting[uid] for uid in due[:PODS_A_ROUND] if await self._ask(waiting[uid])]

    def _due(self, uid: str) -> float:
        if (asked := self._asked.get(uid)) is not None:
            return asked + self.timing.explain_again
        return self._since[uid] + self.timing.explain_after

    async def _ask(self, pod: Pod) -> bool:
        self._asked[pod.uid] = self.clock.monotonic()
        events = Collection(Resource.EVENTS, pod.namespace)
        try:
            listing = await self.api.list_all(events, fields=f"involvedObject.uid={pod.uid}")
        except LonghaulError as error:
            log.warning("pod events not readable", pod=pod.name, namespace=pod.namespace, reason=error.reason)
            return False
        found = explain(listing.items)
        if found is None or self._found.get(pod.uid) == found:
            return False
        self._found[pod.uid] = found
        return True


def explain(events: list[Raw]) -> Explanation | None:
    """The newest event that names a problem."""
    for event in sorted(events, key=_moment, reverse=True):
        if (reason := _PROBLEMS.get(event.get("reason") or "")) is not None:
            message = str(event.get("message") or "")
            return Explanation(PodReason.SECRET_MISSING if MISSING_REFERENCE.search(message) else reason, message)
    return None


def _moment(event: Raw) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")


def _unexplained(pod: Pod) -> bool:
    return pod.phase is PodPhase.PENDING and pod.node is not None and not pod.reason
