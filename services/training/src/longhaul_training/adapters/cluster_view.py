"""The cluster as the controller last saw it: listed again at a hint of a change, at the latest after a while.

While the cluster does not answer, the last view stands: nothing is judged to have changed because the controller is
blind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from longhaul_core.clock import Clock
from longhaul_core.cluster import Cluster, Node, Pod, TaintEffect, Toleration
from longhaul_core.cluster.liveness import Death, LivenessRule, may_force_delete
from longhaul_core.errors import LonghaulError
from longhaul_core.logging import get_logger

from longhaul_training.adapters.pod_specs import LABEL_OWNER_UID, managed
from longhaul_training.domain.observations import DrainView, NodeView, PodPhase, PodView
from longhaul_training.domain.placement import Capacity, Claim, NodeCapacity
from longhaul_training.domain.states import RunSpec

RESYNC_SECONDS = 5.0
RETRY_SECONDS = 1.0
POOL_LABEL = "longhaul.dev/pool"

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ViewOptions:
    """Which pods are ours, which taints all of them put up with, and what says to which pool a node belongs."""

    installation: str = ""
    tolerations: tuple[Toleration, ...] = ()
    pool_label: str = POOL_LABEL
    liveness: LivenessRule = field(default_factory=LivenessRule)


@dataclass(frozen=True, slots=True)
class ClusterSnapshot:
    """Nodes and pods as listed from `listed_at` on (monotonic seconds); `pods` are this installation's.

    `staleness` is the age in seconds that the cluster gave the listing: old news is still shown, but nothing new is
    concluded from it. `foreign` are GPUs that other people's pods hold.
    """

    listed_at: float = float("-inf")
    nodes: Sequence[Node] = ()
    pods: Sequence[Pod] = ()
    by_owner: Mapping[str, tuple[Pod, ...]] = field(default_factory=dict)
    foreign: Sequence[Claim] = ()
    staleness: float = 0.0
    options: ViewOptions = field(default_factory=ViewOptions)

    @property
    def blind(self) -> bool:
        """Whether the cluster has been out of sight for so long that silence there proves nothing."""
        return self.staleness > self.options.liveness.staleness

    def pods_of(self, owner_uid: str) -> dict[str, PodView]:
        """Views of the pods of one run or task, by name."""
        return {pod.name: _pod_view(pod) for pod in self.by_owner.get(owner_uid, ())}

    def claims(self) -> list[Claim]:
        """GPUs held by pods that have not ended, reachable or not, whoever's they are."""
        own = [Claim(pod.name, pod.node or "", pod.gpus) for pod in self.pods if pod.holds_gpus]
        return [*own, *self.foreign]

    def capacities(self, spec: RunSpec | None = None) -> list[NodeCapacity]:
        """Nodes that may take pods: ready, not cordoned, without a taint that keeps pods (of that run) away."""
        tolerations = self._tolerations(spec)
        return [
            NodeCapacity(node.name, node.gpus_total, node.labels.get(self.options.pool_label, ""))
            for node in self.nodes
            if _schedulable(node, tolerations)
        ]

    def restricted(self, capacity: Capacity, spec: RunSpec) -> Capacity:
        """The part of `capacity` that the run's selector and topology leave it."""
        if not spec.node_selector and not spec.topology_label:
            return capacity
        wanted = dict(spec.node_selector)
        fitting = [node for node in self.nodes if all(node.labels.get(k) == v for k, v in wanted.items())]
        groups = {node.name: node.labels[spec.topology_label] for node in fitting if spec.topology_label in node.labels}
        return replace(
            capacity,
            allowed=frozenset(node.name for node in fitting),
            groups=groups if spec.topology_label else None,
        )

    def ready_capacities(self) -> list[NodeCapacity]:
        """All nodes that answer, cordoned ones too."""
        return [NodeCapacity(node.name, node.gpus_total) for node in self.nodes if node.ready]

    def node_views(self, drains: Mapping[str, DrainView]) -> dict[str, NodeView]:
        """Views of the nodes with the drain requests on them."""
        tolerations = self.options.tolerations
        return {
            node.name: NodeView(node.name, node.ready, _schedulable(node, tolerations), drains.get(node.name))
            for node in self.nodes
        }

    def views_for(self, spec: RunSpec, views: Mapping[str, NodeView]) -> Mapping[str, NodeView]:
        """`views` as a run sees them that puts up with more taints than others."""
        if not spec.tolerations:
            return views
        tolerations = self._tolerations(spec)
        return {
            node.name: replace(views[node.name], schedulable=_schedulable(node, tolerations)) for node in self.nodes
        }

    def stuck(self, now: datetime, silence: Callable[[str], float | None]) -> list[tuple[Pod, Death]]:
        """Pods that were deleted but can't end because their node is dead; `silence`: of a pod's agent, if known."""
        nodes = {node.name: node for node in self.nodes}
        found = []
        for pod in self.pods:
            if not pod.deletion_requested or pod.node is None:
                continue
            quiet = silence(pod.name)
            heard_at = None if quiet is None else now - timedelta(seconds=quiet)
            death = may_force_delete(
                pod,
                nodes.get(pod.node),
                now=now,
                staleness=self.staleness,
                heard_at=heard_at,
                rule=self.options.liveness,
            )
            if death is not None:
                found.append((pod, death))
        return found

    def _tolerations(self, spec: RunSpec | None) -> tuple[Toleration, ...]:
        own = spec.tolerations if spec is not None else ()
        return (*self.options.tolerations, *(Toleration(key, value) for key, value in own))


class ClusterView:
    """Keeps a snapshot fresh by watching."""

    def __init__(
        self, cluster: Cluster, clock: Clock, wake: Callable[[], None], options: ViewOptions | None = None
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._wake = wake
        self._options = options or ViewOptions()
        self._ours = managed(self._options.installation)
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
            nodes, pods = await asyncio.gather(self._cluster.list_nodes(), self._cluster.list_pods())
        except LonghaulError as error:
            self._dirty = True
            if not self._snapshot.nodes:
                raise
            if not self._blind:
                log.warning("cluster not readable", error=str(error))
            self._blind = True
            self._snapshot = replace(self._snapshot, staleness=max(self._cluster.staleness(), now - self._listed_at))
            return self._snapshot
        self._blind = False
        self._listed_at = now
        self._snapshot = self._sorted(now, nodes, pods)
        return self._snapshot

    def _sorted(self, now: float, nodes: Sequence[Node], pods: Sequence[Pod]) -> ClusterSnapshot:
        owners: dict[str, list[Pod]] = {}
        ours, foreign = [], []
        for pod in pods:
            if self._ours.items() <= pod.labels.items():
                ours.append(pod)
                owners.setdefault(pod.labels.get(LABEL_OWNER_UID, ""), []).append(pod)
            elif pod.holds_gpus:
                foreign.append(Claim(f"{pod.namespace}/{pod.name}", pod.node or "", pod.gpus))
        by_owner = {uid: tuple(found) for uid, found in owners.items()}
        return ClusterSnapshot(now, nodes, ours, by_owner, foreign, self._cluster.staleness(), self._options)

    async def run(self, stop: asyncio.Event) -> None:
        """Follows the cluster's hints until `stop` is set."""
        while not stop.is_set():
            try:
                await self._follow(stop)
            except LonghaulError as error:
                log.warning("cluster watch broken", error=str(error))
                await self._clock.sleep(RETRY_SECONDS)

    async def _follow(self, stop: asyncio.Event) -> None:
        events = aiter(self._cluster.watch(self._ours))
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


def _schedulable(node: Node, tolerations: Sequence[Toleration]) -> bool:
    if not node.ready or node.unschedulable:
        return False
    hard = (taint for taint in node.taints if taint.effect is not TaintEffect.PREFER_NO_SCHEDULE)
    return all(any(toleration.covers(taint) for toleration in tolerations) for taint in hard)


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
        disrupted=pod.disrupted,
        started_at=pod.started_at.timestamp() if pod.started_at is not None else None,
        finished_at=pod.finished_at.timestamp() if pod.finished_at is not None else None,
    )
