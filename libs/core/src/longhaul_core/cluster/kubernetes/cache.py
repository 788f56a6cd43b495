"""Nodes and pods as the watches of one client show them, with the hints that follow from each change."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from longhaul_core.clock import Clock
from longhaul_core.cluster.hints import HintBoard
from longhaul_core.cluster.kubernetes.api import NODES, Api, Collection, Raw, Resource
from longhaul_core.cluster.kubernetes.nodes import NodeRecord, parse_node
from longhaul_core.cluster.kubernetes.options import GangScheduling, KubernetesOptions
from longhaul_core.cluster.kubernetes.pending import Explainer
from longhaul_core.cluster.kubernetes.pods import PodRecord, observed, parse_pod
from longhaul_core.cluster.kubernetes.readiness import Readiness
from longhaul_core.cluster.kubernetes.reflector import Reflector
from longhaul_core.cluster.kubernetes.releases import Releases
from longhaul_core.cluster.kubernetes.store import Store
from longhaul_core.cluster.kubernetes.timing import Timing
from longhaul_core.cluster.model import Node, Pod
from longhaul_core.errors import LonghaulError
from longhaul_core.logging import get_logger

_log = get_logger(__name__)


def pod_collections(options: KubernetesOptions) -> list[Collection]:
    """Where pods are read: the namespaces of the scope, or everywhere at once."""
    return [Collection(Resource.PODS, namespace) for namespace in options.scope or ("",)]


@dataclass(slots=True)
class ClusterCache:
    """Lives from `start` to `stop`; between them it is served however old it is."""

    api: Api
    options: KubernetesOptions
    clock: Clock
    timing: Timing
    board: HintBoard
    nodes: Store[NodeRecord] = field(default_factory=Store)
    pods: Store[PodRecord] = field(default_factory=Store)
    readiness: Readiness = field(init=False)
    explainer: Explainer = field(init=False)
    _shown: dict[str, Node] = field(default_factory=dict)
    _reflectors: list[Reflector[NodeRecord] | Reflector[PodRecord]] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.readiness = Readiness(self.clock, self.timing)
        self.explainer = Explainer(self.api, self.clock, self.timing)

    async def start(self) -> None:
        """Begin to follow the cluster, if that is not done yet, and wait until all of it was listed."""
        if not self._reflectors:
            self._reflectors = [self._node_reflector(), *map(self._pod_reflector, pod_collections(self.options))]
            for reflector in self._reflectors:
                self._spawn(reflector.run(), f"cluster watch {reflector.collection.path}")
            self._spawn(self._explain(), "cluster watch explain")
            if self.options.gang is GangScheduling.KUEUE:
                self._spawn(self._release(), "cluster watch release")
        for reflector in self._reflectors:
            await reflector.synced()

    async def stop(self) -> None:
        """End all watches."""
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def serving(self) -> bool:
        """Whether everything was listed once."""
        return bool(self._reflectors) and all(reflector.listed for reflector in self._reflectors)

    def staleness(self) -> float:
        """Seconds since the watch that was heard least recently was heard."""
        return max(reflector.age() for reflector in self._reflectors)

    def shown_nodes(self) -> Sequence[Node]:
        """All nodes, by name."""
        return [self._shown[name] for name in sorted(self._shown)]

    def shown_node(self, name: str) -> Node | None:
        """One node."""
        return self._shown.get(name)

    def shown_pods(self) -> Sequence[Pod]:
        """All pods, by namespace and name."""
        return [self.shown(record.pod) for record in self.pods]

    def shown(self, pod: Pod) -> Pod:
        """The pod with what its node's silence and its events say about it."""
        return self.explainer.explained(observed(pod, self._shown.get(pod.node or "")))

    def put_node(self, record: NodeRecord) -> None:
        """Take the answer to an own write."""
        if self.nodes.put(record):
            self._node_changed(record)

    def put_pod(self, record: PodRecord) -> None:
        """Take the answer to an own write."""
        if self.pods.put(record):
            self._pod_changed(record)

    def forget_pod(self, record: PodRecord) -> None:
        """An own deletion took effect at once."""
        if self.pods.forget(record.key, record.uid):
            self._pod_changed(record)

    def _node_reflector(self) -> Reflector[NodeRecord]:
        return Reflector(
            self.api,
            NODES,
            self._parse_node,
            self.nodes,
            self.clock,
            self.timing,
            changed=self._node_changed,
            relisted=self._nodes_relisted,
            recovered=self._recovered,
        )

    def _pod_reflector(self, collection: Collection) -> Reflector[PodRecord]:
        return Reflector(
            self.api,
            collection,
            self._parse_pod,
            self.pods,
            self.clock,
            self.timing,
            changed=self._pod_changed,
            relisted=self.board.resync,
        )

    def _parse_node(self, raw: Raw) -> NodeRecord:
        return parse_node(raw, self.options)

    def _parse_pod(self, raw: Raw) -> PodRecord:
        return parse_pod(raw, self.options)

    def _node_changed(self, record: NodeRecord) -> None:
        if self.nodes.get(record.key) is not None:
            self.readiness.observe(record.node)
        self._show(record.node.name)

    def _pod_changed(self, record: PodRecord) -> None:
        self.board.pod_changed(record.pod.namespace, record.pod.name, record.pod.labels)

    def _nodes_relisted(self) -> None:
        for record in self.nodes:
            self.readiness.observe(record.node)
        names = {record.node.name for record in self.nodes}
        for name in sorted(names | self._shown.keys()):
            self._show(name)
        self.board.resync()

    def _show(self, name: str) -> None:
        """Bring what is shown of a node up to date; hint when that is another thing than before."""
        record = self.nodes.get(("", name))
        before = self._shown.get(name)
        if record is None:
            self._shown.pop(name, None)
            after = None
        else:
            after = self._shown[name] = self.readiness.seen(record.node)
        if before == after:
            return
        self.board.node_changed(name)
        if before is None or after is None or before.silent_since != after.silent_since:
            for pod in self.pods:
                if pod.pod.node == name:
                    self._pod_changed(pod)

    def _recovered(self, silence_seconds: float) -> None:
        self.readiness.recovered(silence_seconds)
        if self.readiness.remaining():
            self._spawn(self._settle_later(), "cluster watch settle")

    async def _settle_later(self) -> None:
        await self.clock.sleep(self.readiness.remaining())
        if not self.readiness.remaining():
            for name in self.readiness.settle():
                self._show(name)

    async def _explain(self) -> None:
        """While pods wait for what only events tell: read those now and then."""
        while True:
            await self.clock.sleep(self.timing.explain_round)
            for pod in await self.explainer.renew([record.pod for record in self.pods]):
                self.board.pod_changed(pod.namespace, pod.name, pod.labels)

    async def _release(self) -> None:
        """Give back the places of pod groups that are over; what fails is tried at the next look."""
        releases = Releases(self.api, self.clock)
        while True:
            await self.clock.sleep(self.timing.explain_round)
            try:
                await releases.look([record.pod for record in self.pods])
            except LonghaulError as error:
                _log.warning("a pod group keeps its place in the queue", error=str(error))

    def _spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
