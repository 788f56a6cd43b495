"""The nodes of the cluster and the pods that hold GPUs, as they were last seen, kept up by watching."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from longhaul_core.clock import Clock
from longhaul_core.cluster import Cluster, EventKind, Node, Pod
from longhaul_core.errors import LonghaulError, NotFound, PermissionDenied
from longhaul_core.logging import get_logger

from longhaul_gpuhealth.adapters.discovery import Discovery
from longhaul_gpuhealth.domain.jobs import PodUse

RELIST_SECONDS = 15.0
RETRY_SECONDS = 1.0
LABEL_KIND = "longhaul.dev/kind"
LABEL_PROJECT = "longhaul.dev/project"
LABEL_OWNER = "longhaul.dev/owner"
LABEL_SLOT = "longhaul.dev/slot"
KIND_RUN = "run"

log = get_logger(__name__)
PodKey = tuple[str, str]


@dataclass(slots=True)
class NodeBook:
    """Follows nodes and pods. `changed` gets the name of each node that is new, other, used otherwise or gone.

    Where pods may not be read, nothing is known of jobs, and no node counts as idle.
    """

    cluster: Cluster
    clock: Clock
    changed: Callable[[str], None]
    discovery: Discovery
    pool_label: str = ""
    nodes: dict[str, Node] = field(default_factory=dict)
    listed: asyncio.Event = field(default_factory=asyncio.Event)
    pods_known: bool = False
    _pools: Counter[str] = field(default_factory=Counter)
    _places: dict[PodKey, str] = field(default_factory=dict)
    _uses: dict[str, dict[PodKey, PodUse]] = field(default_factory=dict)

    async def follow(self) -> None:
        """Watch without end; a cluster that cannot be read leaves the book as it was."""
        while True:
            try:
                async for event in self.cluster.watch():
                    if event.kind is EventKind.RESYNC:
                        await self._list()
                    elif event.kind is EventKind.NODE:
                        await self._read(event.name)
                    elif event.kind is EventKind.POD:
                        await self._read_pod(event.namespace, event.name)
            except LonghaulError as error:
                log.warning("cluster not readable", error=str(error), reason=error.reason)
            await self.clock.sleep(RETRY_SECONDS)

    async def relist(self) -> None:
        """List now and then, should a hint have been lost."""
        while True:
            await self.clock.sleep(RELIST_SECONDS)
            try:
                await self._list()
            except LonghaulError as error:
                log.warning("cluster not readable", error=str(error), reason=error.reason)

    def put(self, node: Node) -> None:
        """Take a newer sight of a node."""
        known = self.nodes.get(node.name)
        if known != node:
            self.nodes[node.name] = node
            if known is None or self.pool_of(known) != self.pool_of(node):
                self._pools[self.pool_of(node)] += 1
                self._pools[self.pool_of(known)] -= known is not None
            self.changed(node.name)

    def pool_of(self, node: Node | None) -> str:
        """The pool of a node; empty: none."""
        return node.labels.get(self.pool_label, "") if node is not None and self.pool_label else ""

    def pool_size(self, pool: str) -> int:
        """Nodes of a pool."""
        return self._pools[pool]

    def uses(self, node: str) -> list[PodUse]:
        """Pods that hold GPUs of a node."""
        return list(self._uses.get(node, {}).values())

    def idle(self, node: str) -> bool:
        """Whether nothing holds a GPU of a node, as far as that is known."""
        return self.pods_known and not self._uses.get(node)

    async def _list(self) -> None:
        found = {node.name: node for node in await self.cluster.list_nodes()}
        for name in self.nodes.keys() - found.keys():
            self._remove(name)
        for node in found.values():
            self.put(node)
        try:
            pods = await self.cluster.list_pods()
        except PermissionDenied as error:
            log.warning("pods not readable", error=str(error))
        else:
            for key in (self._places.keys() | self.discovery.keys()) - {(pod.namespace, pod.name) for pod in pods}:
                self._put_pod(key, None)
            for pod in pods:
                self._put_pod((pod.namespace, pod.name), pod)
            self.pods_known = True
        self.listed.set()

    async def _read(self, name: str) -> None:
        try:
            self.put(await self.cluster.get_node(name))
        except NotFound:
            self._remove(name)

    async def _read_pod(self, namespace: str, name: str) -> None:
        try:
            self._put_pod((namespace, name), await self.cluster.get_pod(namespace, name))
        except NotFound:
            self._put_pod((namespace, name), None)

    def _put_pod(self, key: PodKey, pod: Pod | None) -> None:
        if exporter_of := self.discovery.put_pod(key, pod):
            self.changed(exporter_of)
        node = pod.node if pod is not None and pod.holds_gpus else None
        use = _use(pod) if pod is not None and node is not None else None
        before = self._places.get(key)
        if before is not None and before != node:
            del self._places[key]
            self._uses[before].pop(key, None)
            self.changed(before)
        if node is not None and use is not None and self._uses.setdefault(node, {}).get(key) != use:
            self._places[key] = node
            self._uses[node][key] = use
            self.changed(node)

    def _remove(self, name: str) -> None:
        node = self.nodes.pop(name, None)
        if node is not None:
            self._pools[self.pool_of(node)] -= 1
            self.changed(name)


def _use(pod: Pod) -> PodUse:
    if pod.labels.get(LABEL_KIND) != KIND_RUN:
        return PodUse(pod.namespace, pod.name, pod.gpus)
    slot = pod.labels.get(LABEL_SLOT, "")
    return PodUse(
        pod.namespace,
        pod.name,
        pod.gpus,
        pod.labels.get(LABEL_PROJECT, ""),
        pod.labels.get(LABEL_OWNER, ""),
        int(slot) if slot.isdecimal() else -1,
    )
