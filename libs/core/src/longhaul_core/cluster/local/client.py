"""`LocalCluster`: the cluster seam on a folder and its node processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from longhaul_core.clock import Clock
from longhaul_core.cluster.hints import HintBoard
from longhaul_core.cluster.local.layout import Layout
from longhaul_core.cluster.local.link import NodeLink, NodeSilentError
from longhaul_core.cluster.local.logs import read_log
from longhaul_core.cluster.local.records import Deletion, NodeRecord, StoredPod
from longhaul_core.cluster.local.store import Store
from longhaul_core.cluster.local.wire import Operation, node_hint, pod_hint
from longhaul_core.cluster.model import ClusterEvent, EventKind, Node, NodePatch, Pod, PodOwner, PodSpec
from longhaul_core.cluster.rules import apply_patch, check_spec, matches

WATCH_POLL_SECONDS = 0.25


@dataclass(slots=True)
class LocalCluster:
    """Reads and writes the folder, tells the node processes to look; any number may be open, in any process."""

    store: Store
    clock: Clock
    _links: dict[str, NodeLink] = field(default_factory=dict)
    _board: HintBoard = field(default_factory=HintBoard)
    _keeper: asyncio.Task[None] | None = None
    _readiness: dict[str, bool] = field(default_factory=dict)
    _silences: dict[str, datetime] = field(default_factory=dict)
    _kept: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def open(cls, root: Path, clock: Clock) -> LocalCluster:
        """Open the cluster in the folder `root`, which need not exist yet."""
        store = Store(Layout(root))
        store.prepare()
        return cls(store, clock)

    def staleness(self) -> float:
        """See `Cluster`."""
        return 0.0

    async def list_nodes(self, labels: Mapping[str, str] | None = None) -> Sequence[Node]:
        """See `Cluster`."""
        records = await asyncio.to_thread(self._load_nodes)
        chosen = [record for record in records if matches(record.labels, labels)]
        return await asyncio.gather(*(self._seen(record) for record in chosen))

    async def get_node(self, name: str) -> Node:
        """See `Cluster`."""
        return await self._seen(await asyncio.to_thread(self.store.load_node, name))

    async def patch_node(self, name: str, patch: NodePatch, *, expected_version: str | None = None) -> Node:
        """See `Cluster`."""

        def change(record: NodeRecord) -> NodeRecord:
            patched = apply_patch(record.observed(ready=True), patch)
            return replace(
                record,
                unschedulable=patched.unschedulable,
                labels=patched.labels,
                taints=patched.taints,
                annotations=patched.annotations,
                conditions=patched.conditions,
            )

        record = await asyncio.to_thread(self.store.change_node, name, change, expected_version)
        await self._announce(name, Operation.ANNOUNCE, node_hint(name))
        return await self._seen(record)

    async def create_pod(self, spec: PodSpec) -> Pod:
        """See `Cluster`."""
        check_spec(spec)
        if spec.node is not None:
            await asyncio.to_thread(self.store.load_node, spec.node)
        await asyncio.to_thread(self.store.create_pod, spec, self.clock.now())
        candidates = [spec.node] if spec.node else await asyncio.to_thread(self.store.node_names)
        for node in candidates:
            await self._announce(node, Operation.LOOK, pod_hint(spec))
            stored = await asyncio.to_thread(self.store.load_pod, spec.namespace, spec.name)
            if stored.node is not None:
                break
        return await self.get_pod(spec.namespace, spec.name)

    async def get_pod(self, namespace: str, name: str) -> Pod:
        """See `Cluster`."""
        stored = await asyncio.to_thread(self.store.load_pod, namespace, name)
        [pod] = await self._observe([stored])
        return pod

    async def list_pods(
        self, labels: Mapping[str, str] | None = None, *, namespace: str | None = None
    ) -> Sequence[Pod]:
        """See `Cluster`."""
        stored = await asyncio.to_thread(lambda: list(self.store.pods()))
        return await self._observe(
            [
                pod
                for pod in stored
                if matches(pod.record.spec.labels, labels) and namespace in (None, pod.record.spec.namespace)
            ]
        )

    async def delete_pod(
        self, namespace: str, name: str, uid: str | None = None, grace_seconds: float | None = None, force: bool = False
    ) -> None:
        """See `Cluster`."""
        stored = await asyncio.to_thread(self.store.load_pod, namespace, name)
        spec = stored.record.spec
        if force:
            await asyncio.to_thread(self.store.remove_pod, namespace, name, uid)
        else:
            grace = spec.grace_seconds if grace_seconds is None else grace_seconds
            deletion = Deletion(self.clock.now(), grace)
            await asyncio.to_thread(self.store.request_deletion, namespace, name, uid, deletion)
        for node in [stored.node] if stored.node else await asyncio.to_thread(self.store.node_names):
            await self._announce(node, Operation.LOOK, {**pod_hint(spec), "uid": stored.record.uid})

    async def list_owners(self, labels: Mapping[str, str] | None = None) -> Sequence[PodOwner]:
        """See `Cluster`; pods end with their node here."""
        return ()

    async def delete_owner(self, namespace: str, name: str) -> None:
        """See `Cluster`; there are none."""

    async def watch(
        self, labels: Mapping[str, str] | None = None, *, namespace: str | None = None
    ) -> AsyncIterator[ClusterEvent]:
        """See `Cluster`."""
        with self._board.watching(labels, namespace) as watcher:
            if self._keeper is None:
                self._kept.clear()
                self._keeper = asyncio.create_task(self._keep_links(), name="cluster watch")
            try:
                await self._kept.wait()
                watcher.forget()
                yield ClusterEvent(EventKind.RESYNC)
                async for event in watcher.events():
                    yield event
            finally:
                if self._board.watchers == {watcher}:
                    await self._stop_keeper()

    async def pod_logs(
        self, namespace: str, name: str, *, follow: bool = False, tail_lines: int | None = None
    ) -> AsyncIterator[bytes]:
        """See `Cluster`."""
        async for piece in read_log(self.store, namespace, name, follow=follow, tail_lines=tail_lines):
            yield piece

    async def close(self) -> None:
        """See `Cluster`."""
        await self._stop_keeper()
        await asyncio.gather(*(link.close() for link in self._links.values()))
        self._links.clear()

    async def _seen(self, record: NodeRecord) -> Node:
        """The node with its liveness now."""
        if await self._link(record.name).answers():
            self._silences.pop(record.name, None)
            return record.observed(ready=True)
        return record.observed(ready=False, silent_since=self._silences.setdefault(record.name, self.clock.now()))

    def _load_nodes(self) -> list[NodeRecord]:
        return [self.store.load_node(name) for name in self.store.node_names()]

    async def _observe(self, stored: Sequence[StoredPod]) -> list[Pod]:
        names = sorted({pod.node for pod in stored if pod.node is not None and not pod.status.phase.terminal})
        answers = await asyncio.gather(*(self._link(name).answers() for name in names))
        ready = dict(zip(names, answers, strict=True))
        return [pod.observed(node_ready=pod.node is None or ready.get(pod.node, True)) for pod in stored]

    async def _announce(self, node: str, operation: Operation, hint: dict[str, Any]) -> None:
        """Make `node` act and all watchers look; another node passes the hint on when it is silent."""
        self._hinted(hint)
        with contextlib.suppress(NodeSilentError):
            await self._link(node).ask(operation, hint=hint)
            return
        for other in self._links:
            if other != node and self._readiness.get(other, True):
                with contextlib.suppress(NodeSilentError):
                    await self._link(other).ask(Operation.ANNOUNCE, hint=hint)
                    return

    def _link(self, node: str) -> NodeLink:
        link = self._links.get(node)
        if link is None:
            link = self._links[node] = NodeLink(node, self.store, self._hinted, self._board.resync)
        return link

    def _hinted(self, hint: dict[str, Any]) -> None:
        if hint.get("kind") == EventKind.POD:
            self._board.pod_changed(hint["namespace"], hint["name"], hint.get("labels") or {})
        else:
            self._board.node_changed(hint["name"])

    async def _keep_links(self) -> None:
        """While someone watches: stay connected to every node, hint at nodes that appear, vanish or return."""
        while True:
            names = await asyncio.to_thread(self.store.node_names)
            answers = await asyncio.gather(*(self._link(name).answers() for name in names))
            for name, ready in zip(names, answers, strict=True):
                if self._readiness.get(name) is not ready:
                    self._readiness[name] = ready
                    self._board.node_changed(name)
            if not any(answers):
                self._board.resync()  # nobody passes the hints of other clients on
            self._kept.set()
            await asyncio.sleep(WATCH_POLL_SECONDS)

    async def _stop_keeper(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
