"""When a node counts as dead, and when a pod there may be removed without waiting for the node. Pure.

Removing a pod by force frees its name while its processes may still run. That is allowed only on facts that are
fresh, about a node that somebody vouches for: the cloud removed the machine, an operator took it out of service, or it
has been silent to the cluster and to its pods' owner alike for so long that nobody waits for it any more. A node that
says itself that it is not ready is alive: it will end its pods.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from longhaul_core.cluster.model import Node, Pod

OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
"""The taint by which an operator states that a machine is off (Kubernetes: non-graceful node shutdown)."""


class Death(StrEnum):
    """Why a node counts as dead."""

    REMOVED = "the node was removed from the cluster"
    OUT_OF_SERVICE = "an operator took the node out of service"
    SILENT = "the node has been silent for too long"


@dataclass(frozen=True, slots=True)
class LivenessRule:
    """Seconds of silence that prove a death, and the age beyond which a sight of the cluster proves nothing.

    `silence` is counted on top of what the cluster itself waits before it calls a node silent (Kubernetes: 50 s).
    `staleness` is longer than the longest time for which a healthy watch may have nothing to say.
    """

    silence: float = 60.0
    staleness: float = 45.0


def death_of(
    node: Node | None, *, now: datetime, staleness: float, heard_at: datetime | None = None, rule: LivenessRule
) -> Death | None:
    """Why `node` counts as dead; None while it may live. A node that is None is no longer there.

    Args:
        node: The node as last seen.
        now: Present time of the same clock as the other times.
        staleness: Age of that sight, seconds.
        heard_at: When the owner of a pod on the node last heard that pod by itself, if it can tell.
        rule: Limits.
    """
    if staleness > rule.staleness:
        return None
    if node is None:
        return Death.REMOVED
    if any(taint.key == OUT_OF_SERVICE for taint in node.taints):
        return Death.OUT_OF_SERVICE
    if node.ready or node.silent_since is None:
        return None
    last_sign = node.silent_since if heard_at is None else max(node.silent_since, heard_at)
    return Death.SILENT if now - last_sign >= timedelta(seconds=rule.silence) else None


def may_force_delete(
    pod: Pod,
    node: Node | None,
    *,
    now: datetime,
    staleness: float,
    heard_at: datetime | None = None,
    rule: LivenessRule | None = None,
) -> Death | None:
    """The death that allows a forced deletion of `pod`, which was deleted and is stuck; None while it is not allowed.

    The pod's own grace must be over, so that what can still end in order does.
    """
    if not pod.deletion_requested or pod.node is None:
        return None
    if pod.deletion_deadline is not None and now < pod.deletion_deadline:
        return None
    return death_of(node, now=now, staleness=staleness, heard_at=heard_at, rule=rule or LivenessRule())
