"""Delivery of change hints to watchers inside one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from longhaul_core.cluster.model import ClusterEvent, EventKind
from longhaul_core.cluster.rules import matches


@dataclass(slots=True, eq=False)
class Watcher:
    """One watch: hints that wait for its reader, equal ones merged, so that a slow reader costs bounded memory."""

    labels: Mapping[str, str] | None
    namespace: str | None
    _pending: dict[ClusterEvent, None] = field(default_factory=dict)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def offer(self, event: ClusterEvent, labels: Mapping[str, str]) -> None:
        """Queue `event` unless the watch filters it out."""
        if event.kind is EventKind.POD and not (
            matches(labels, self.labels) and self.namespace in (None, event.namespace)
        ):
            return
        self._pending[event] = None
        self._arrived.set()

    def forget(self) -> None:
        """Drop what waits, because the reader is about to list everything."""
        self._pending.clear()

    async def events(self) -> AsyncIterator[ClusterEvent]:
        """The hints, without end."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._pending:
                event = next(iter(self._pending))
                del self._pending[event]
                yield event


@dataclass(slots=True)
class HintBoard:
    """All watches of one client."""

    watchers: set[Watcher] = field(default_factory=set)

    @contextmanager
    def watching(self, labels: Mapping[str, str] | None, namespace: str | None) -> Iterator[Watcher]:
        """A watch that gets everything from here on."""
        watcher = Watcher(labels, namespace)
        self.watchers.add(watcher)
        try:
            yield watcher
        finally:
            self.watchers.discard(watcher)

    def pod_changed(self, namespace: str, name: str, labels: Mapping[str, str]) -> None:
        """Hint at a pod."""
        self._offer(ClusterEvent(EventKind.POD, name, namespace), labels)

    def node_changed(self, name: str) -> None:
        """Hint at a node."""
        self._offer(ClusterEvent(EventKind.NODE, name), {})

    def resync(self) -> None:
        """Tell all watchers to list again."""
        self._offer(ClusterEvent(EventKind.RESYNC), {})

    def _offer(self, event: ClusterEvent, labels: Mapping[str, str]) -> None:
        for watcher in self.watchers:
            watcher.offer(event, labels)
