"""The cluster as the controller last saw it: listed again at a hint of a change, at the latest after a while.

While the cluster does not answer, the last view stands: nothing is judged to have changed because the controller is
blind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from longhaul_core.clock import Clock
from longhaul_core.cluster import Cluster, Node, Pod
from longhaul_core.errors import LonghaulError
from longhaul_core.logging import get_logger

from longhaul_training.adapters.pod_specs import LABEL_OWNER_UID, MANAGED
from longhaul_training.domain.observations import DrainView, NodeView, PodPhase, PodView
from longhaul_training.domain.placement import Claim, NodeCapacity

RESYNC_SECONDS = 5.0
RETRY_SECONDS = 1.0
POOL_LABEL = "longhaul.dev/pool"

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ClusterSnapshot:
    """Nodes and this installation's pods as listed from `listed_at` on (monotonic seconds)."""

    listed_at: float = float("-inf")
    nodes: Sequence[Node] = ()
    pods: Sequence[Pod] = ()
    by_owner: Mapping[str, tuple[Pod, ...]] = field(default_factory=dict)

    def pods_of(self, owner_uid: str) -> dict[str, PodView]:
        """Views of the pods of one run or task, by name."""
        return {pod.name: _pod_view(pod) for pod in self.by_owner.get(owner_uid, ())}

    def claims(self) -> list[Claim]:
        """GPUs held by pods that have not ended, reachable or not."""
        return [Claim(pod.name, pod.node or "", pod.gpus) for pod in self.pods if pod.holds_gpus]

    def capacities(self) -> list[NodeCapacity]:
        """Nodes that may take pods: ready, not cordoned, without a taint that keeps pods away."""
        return [
            NodeCapacity(node.name, node.gpus_total, node.labels.get(POOL_LABEL, ""))
            for node in self.nodes
            if _schedulable(node)
        ]

    def ready_capacities(self) -> list[NodeCapacity]:
        """All nodes that answer, cordoned ones too."""
        return [NodeCapacity(node.name, node.gpus_total) for node in self.nodes if node.ready]

    def node_views(self, drains: Mapping[str, DrainView]) -> dict[str, NodeView]:
        """Views of the nodes with the drain requests on them."""
        return {
            node.name: NodeView(node.name, node.ready, _schedulable(node), drains.get(node.name)) for node in self.nodes
        }


class ClusterView:
    """Keeps a snapshot fresh by watching."""

    def __init__(self, cluster: Cluster, clock: Clock, wake: Callable[[], None]) -> None:
        self._cluster = cluster
        self._clock = clock
        self._wake = wake
        self._dirty = True
        self._listed_at = float("-inf")
        self._snapshot = ClusterSnapshot()
        self._blind = False

    def mark_dirty(self) -> None:
        """The next snapshot is listed anew."""
        self._dirty = True

    async def snapshot(self) -> ClusterSnapshot:
        """The present snapshot; raises what the cluster raises when there never was one."""
        now = self._clock.monotonic()
        if not self._dirty and now - self._listed_at < RESYNC_SECONDS:
            return self._snapshot
        self._dirty = False
        try:
            nodes, pods = await asyncio.gather(self._cluster.list_nodes(), self._cluster.list_pods(MANAGED))
        except LonghaulError as error:
            self._dirty = True
            if not self._snapshot.nodes:
                raise
            if not self._blind:
                log.warning("cluster not readable", error=str(error))
            self._blind = True
            return self._snapshot
        self._blind = False
        self._listed_at = now
        owners: dict[str, tuple[Pod, ...]] = {}
        for pod in pods:
            uid = pod.labels.get(LABEL_OWNER_UID, "")
            owners[uid] = (*owners.get(uid, ()), pod)
        self._snapshot = ClusterSnapshot(now, nodes, pods, owners)
        return self._snapshot

    async def run(self, stop: asyncio.Event) -> None:
        """Follows the cluster's hints until `stop` is set."""
        while not stop.is_set():
            try:
                await self._follow(stop)
            except LonghaulError as error:
                log.warning("cluster watch broken", error=str(error))
                await self._clock.sleep(RETRY_SECONDS)

    async def _follow(self, stop: asyncio.Event) -> None:
        events = aiter(self._cluster.watch(MANAGED))
        ended = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                upcoming = asyncio.ensure_future(anext(events))
                await asyncio.wait((upcoming, ended), return_when=asyncio.FIRST_COMPLETED)
                if not upcoming.done():
                    upcoming.cancel()
                    return
                upcoming.result()
                self.mark_dirty()
                self._wake()
        finally:
            ended.cancel()


def _schedulable(node: Node) -> bool:
    hard = any(taint.effect.value in ("NoSchedule", "NoExecute") for taint in node.taints)
    return node.ready and not node.unschedulable and not hard


def _pod_view(pod: Pod) -> PodView:
    return PodView(
        name=pod.name,
        uid=pod.uid,
        phase=PodPhase(pod.phase.value),
        node=pod.node or "",
        reason=pod.reason,
        message=pod.message,
        exit_code=pod.exit_code,
        deleting=pod.deletion_requested,
        finished_at=pod.finished_at.timestamp() if pod.finished_at is not None else None,
    )
