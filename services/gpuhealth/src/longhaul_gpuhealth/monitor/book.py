"""The nodes of the cluster as they were last seen, kept up by watching."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from longhaul_core.clock import Clock
from longhaul_core.cluster import Cluster, EventKind, Node
from longhaul_core.errors import LonghaulError, NotFound
from longhaul_core.logging import get_logger

RELIST_SECONDS = 15.0
RETRY_SECONDS = 1.0

log = get_logger(__name__)


@dataclass(slots=True)
class NodeBook:
    """Follows the nodes. `changed` is called with the name of each node that is new, other than before, or gone."""

    cluster: Cluster
    clock: Clock
    changed: Callable[[str], None]
    nodes: dict[str, Node] = field(default_factory=dict)
    listed: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self) -> None:
        """Watch without end; a cluster that cannot be read leaves the book as it was."""
        while True:
            try:
                async for event in self.cluster.watch():
                    if event.kind is EventKind.RESYNC:
                        await self._list()
                    elif event.kind is EventKind.NODE:
                        await self._read(event.name)
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
        if self.nodes.get(node.name) != node:
            self.nodes[node.name] = node
            self.changed(node.name)

    async def _list(self) -> None:
        found = {node.name: node for node in await self.cluster.list_nodes()}
        for name in self.nodes.keys() - found.keys():
            self._remove(name)
        for node in found.values():
            self.put(node)
        self.listed.set()

    async def _read(self, name: str) -> None:
        try:
            self.put(await self.cluster.get_node(name))
        except NotFound:
            self._remove(name)

    def _remove(self, name: str) -> None:
        if self.nodes.pop(name, None) is not None:
            self.changed(name)
