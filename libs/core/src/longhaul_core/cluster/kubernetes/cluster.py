"""`KubernetesCluster`: the cluster seam on the Kubernetes API.

While a watch stands, reads come from its cache and cost nothing; without one each read asks the API server. A pod costs
two calls in its life, its creation and its deletion.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from longhaul_core.clock import Clock
from longhaul_core.cluster.hints import HintBoard
from longhaul_core.cluster.jobs import Job
from longhaul_core.cluster.kubernetes.api import NODES, Api, Collection, Raw, Resource
from longhaul_core.cluster.kubernetes.cache import ClusterCache, pod_collections
from longhaul_core.cluster.kubernetes.credentials import Credentials
from longhaul_core.cluster.kubernetes.jobs import jobs_in, parse_job
from longhaul_core.cluster.kubernetes.logs import read_logs
from longhaul_core.cluster.kubernetes.manifest import build_manifest
from longhaul_core.cluster.kubernetes.marks import patch_marks
from longhaul_core.cluster.kubernetes.nodes import NodeRecord, parse_node
from longhaul_core.cluster.kubernetes.options import KubernetesOptions
from longhaul_core.cluster.kubernetes.overlay import load_template
from longhaul_core.cluster.kubernetes.owners import Owners
from longhaul_core.cluster.kubernetes.pods import PodRecord, observed, parse_pod
from longhaul_core.cluster.kubernetes.timing import Timing
from longhaul_core.cluster.kubernetes.transport import Transport
from longhaul_core.cluster.model import (
    DEFAULT_NAMESPACE,
    ClusterEvent,
    EventKind,
    Node,
    NodePatch,
    Pod,
    PodOwner,
    PodSpec,
)
from longhaul_core.cluster.rules import check_spec, matches
from longhaul_core.errors import NotFound


@dataclass(slots=True)
class KubernetesCluster:
    """See `Cluster`. The namespace `default` of a request is the one that the options name."""

    options: KubernetesOptions
    api: Api
    clock: Clock
    timing: Timing
    template: Raw
    owners: Owners
    _board: HintBoard = field(default_factory=HintBoard)
    _cache: ClusterCache | None = None

    @classmethod
    def open(cls, options: KubernetesOptions, clock: Clock, timing: Timing | None = None) -> KubernetesCluster:
        """Prepare a client; it connects with its first call. Raises `InvalidArgument` for an unusable template."""
        durations = timing or Timing()
        api = Api(Transport(Credentials(options), durations))
        template = load_template(options.template)
        return cls(options, api, clock, durations, template, Owners(api, options, clock))

    @property
    def calls(self) -> Mapping[str, int]:
        """Requests sent to the API so far, by verb and resource."""
        return self.api.transport.calls

    def staleness(self) -> float:
        """See `Cluster`."""
        cache = self._serving()
        return cache.staleness() if cache is not None else 0.0

    async def list_nodes(self, labels: Mapping[str, str] | None = None) -> Sequence[Node]:
        """See `Cluster`."""
        if (cache := self._serving()) is not None:
            return [node for node in cache.shown_nodes() if matches(node.labels, labels)]
        listing = await self.api.list_all(NODES, labels)
        return sorted((parse_node(raw, self.options).node for raw in listing.items), key=lambda node: node.name)

    async def get_node(self, name: str) -> Node:
        """See `Cluster`."""
        if (cache := self._serving()) is not None and (node := cache.shown_node(name)) is not None:
            return node
        return (await self._fetch_node(name)).node

    async def patch_node(self, name: str, patch: NodePatch, *, expected_version: str | None = None) -> Node:
        """See `Cluster`."""
        cache = self._serving()
        known = cache.nodes.get(("", name)) if cache is not None else None
        record = await patch_marks(self.api, self.options, name, patch, expected_version, known)
        if cache is None:
            return record.node
        cache.put_node(record)
        return cache.readiness.seen(record.node)

    async def create_pod(self, spec: PodSpec) -> Pod:
        """See `Cluster`."""
        check_spec(spec)
        namespace = self._namespace(spec.namespace)
        build_manifest(spec, namespace, self.options, self.template)  # what is malformed leaves nothing behind
        owner = await self.owners.prepare(spec, namespace)
        manifest = build_manifest(spec, namespace, self.options, self.template, owner)
        node = await self.get_node(spec.node) if spec.node is not None else None
        record = parse_pod(await self.api.create_pod(namespace, manifest), self.options)
        if (cache := self._serving()) is not None:
            cache.put_pod(record)
        return observed(record.pod, node)

    async def create_job(self, namespace: str, manifest: Mapping[str, Any]) -> None:
        """See `JobCluster`."""
        await self.api.create(jobs_in(self._namespace(namespace)), dict(manifest))

    async def get_job(self, namespace: str, name: str) -> Job:
        """See `JobCluster`."""
        return parse_job(await self.api.get(jobs_in(self._namespace(namespace)), name))

    async def get_pod(self, namespace: str, name: str) -> Pod:
        """See `Cluster`."""
        namespace = self._namespace(namespace)
        if (cache := self._serving()) is not None and (record := cache.pods.get((namespace, name))) is not None:
            return cache.shown(record.pod)
        pod = parse_pod(await self.api.get(Collection(Resource.PODS, namespace), name), self.options).pod
        return observed(pod, await self._node_of(pod))

    async def list_pods(
        self, labels: Mapping[str, str] | None = None, *, namespace: str | None = None
    ) -> Sequence[Pod]:
        """See `Cluster`."""
        within = self._namespace(namespace) if namespace is not None else None
        if (cache := self._serving()) is not None:
            pods = cache.shown_pods()
        else:
            pods = await self._list_live(labels)
        return [pod for pod in pods if matches(pod.labels, labels) and within in (None, pod.namespace)]

    async def delete_pod(
        self, namespace: str, name: str, uid: str | None = None, grace_seconds: float | None = None, force: bool = False
    ) -> None:
        """See `Cluster`."""
        namespace = self._namespace(namespace)
        answer = await self.api.delete_pod(namespace, name, uid, _grace(grace_seconds, force=force))
        cache = self._serving()
        if cache is None or answer.get("kind") != "Pod":
            return
        record = parse_pod(answer, self.options)
        at_once = not answer["metadata"].get("deletionGracePeriodSeconds")
        if at_once and not record.held:
            cache.forget_pod(record)
        else:
            cache.put_pod(record)

    async def list_owners(self, labels: Mapping[str, str] | None = None) -> Sequence[PodOwner]:
        """See `Cluster`."""
        return await self.owners.list(labels)

    async def delete_owner(self, namespace: str, name: str) -> None:
        """See `Cluster`."""
        await self.owners.delete(self._namespace(namespace), name)

    async def watch(
        self, labels: Mapping[str, str] | None = None, *, namespace: str | None = None
    ) -> AsyncIterator[ClusterEvent]:
        """See `Cluster`."""
        within = self._namespace(namespace) if namespace is not None else None
        with self._board.watching(labels, within) as watcher:
            if self._cache is None:
                self._cache = ClusterCache(self.api, self.options, self.clock, self.timing, self._board)
            try:
                await self._cache.start()
                watcher.forget()
                yield ClusterEvent(EventKind.RESYNC)
                async for event in watcher.events():
                    yield event
            finally:
                if self._board.watchers == {watcher}:
                    await self._drop_cache()

    async def pod_logs(
        self, namespace: str, name: str, *, follow: bool = False, tail_lines: int | None = None
    ) -> AsyncIterator[bytes]:
        """See `Cluster`; for what the pod's agent does not report, above all before it starts."""
        namespace = self._namespace(namespace)

        async def phase() -> Pod:
            return await self.get_pod(namespace, name)

        async for piece in read_logs(self.api, phase, self.clock, follow=follow, tail_lines=tail_lines):
            yield piece

    async def close(self) -> None:
        """See `Cluster`."""
        await self._drop_cache()
        await self.api.transport.close()

    def _serving(self) -> ClusterCache | None:
        return self._cache if self._cache is not None and self._cache.serving else None

    def _namespace(self, asked: str) -> str:
        return self.options.namespace if asked == DEFAULT_NAMESPACE else asked

    async def _fetch_node(self, name: str) -> NodeRecord:
        return parse_node(await self.api.get(NODES, name), self.options)

    async def _node_of(self, pod: Pod) -> Node | None:
        """The node whose silence decides what is known of `pod`; asked only where it matters."""
        if pod.node is None or pod.phase.terminal:
            return None
        try:
            return await self.get_node(pod.node)
        except NotFound:
            return None

    async def _list_live(self, labels: Mapping[str, str] | None) -> list[Pod]:
        listings = (self.api.list_all(collection, labels) for collection in pod_collections(self.options))
        nodes, pages = await asyncio.gather(self.list_nodes(), asyncio.gather(*listings))
        by_name = {node.name: node for node in nodes}
        records: list[PodRecord] = [parse_pod(raw, self.options) for page in pages for raw in page.items]
        records.sort(key=lambda record: record.key)
        return [observed(record.pod, by_name.get(record.pod.node or "")) for record in records]

    async def _drop_cache(self) -> None:
        cache, self._cache = self._cache, None
        if cache is not None:
            await cache.stop()


def _grace(seconds: float | None, *, force: bool) -> int | None:
    """Whole seconds for the API, where 0 removes the object without waiting for its node: that is `force` alone."""
    if force:
        return 0
    return None if seconds is None else max(1, math.ceil(seconds))
