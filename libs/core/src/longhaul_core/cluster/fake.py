"""A cluster in memory, for tests and simulations: nothing runs, the test plays the processes and the faults."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from longhaul_core.clock import Clock
from longhaul_core.cluster.hints import HintBoard
from longhaul_core.cluster.model import (
    ClusterEvent,
    EventKind,
    Node,
    NodePatch,
    Pod,
    PodOwner,
    PodPhase,
    PodReason,
    PodSpec,
)
from longhaul_core.cluster.rules import apply_patch, check_spec, fits, gpus_used, matches
from longhaul_core.errors import Aborted, AlreadyExists, NotFound
from longhaul_core.ids import new_uid

FAKE_POD_IP = "10.0.0.1"


@dataclass(slots=True)
class FakeCluster:
    """Every call answers at once and without yielding, so that a simulation decides all orders of events.

    A pod runs until the test ends it (`finish_pod`), its node dies (`kill_node`) or it is deleted; pods named in
    `stubborn` stay Terminating until `finish_pod` or a forced deletion.
    """

    clock: Clock
    stubborn: set[str] = field(default_factory=set)
    _nodes: dict[str, Node] = field(default_factory=dict)
    _pods: dict[tuple[str, str], Pod] = field(default_factory=dict)
    _specs: dict[str, PodSpec] = field(default_factory=dict)
    _logs: dict[str, bytes] = field(default_factory=dict)
    _owners: dict[tuple[str, str], PodOwner] = field(default_factory=dict)
    _board: HintBoard = field(default_factory=HintBoard)

    # What a test does to the cluster

    def add_node(
        self, name: str, *, gpus: int = 1, labels: Mapping[str, str] | None = None, exporter_url: str = ""
    ) -> Node:
        """Add a ready node."""
        node = Node(
            name=name,
            uid=new_uid(),
            ready=True,
            gpus_total=gpus,
            resource_version="1",
            labels=dict(labels or {}),
            exporter_url=exporter_url,
        )
        self._nodes[name] = node
        self._board.node_changed(name)
        self._settle()
        return node

    def kill_node(self, name: str) -> None:
        """The node stops answering; what ran there is unknown from now on."""
        self._nodes[name] = replace(self._node(name), ready=False, silent_since=self.clock.now())
        self._board.node_changed(name)
        for pod in self._on(name):
            if pod.phase is PodPhase.RUNNING:
                self._store(replace(pod, phase=PodPhase.UNKNOWN))

    def restart_node(self, name: str) -> None:
        """The node comes back without the processes that it had."""
        self._nodes[name] = replace(self._node(name), ready=True, silent_since=None)
        self._board.node_changed(name)
        for pod in self._on(name):
            if pod.phase.terminal and pod.deletion_requested:
                self._remove(pod)
            elif pod.phase in (PodPhase.RUNNING, PodPhase.UNKNOWN):
                self._end(pod, PodReason.NODE_LOST, f"node {name} died and its pods with it", None)
        self._settle()

    def finish_pod(self, namespace: str, name: str, exit_code: int = 0) -> None:
        """The pod's command ends."""
        pod = self._pod(namespace, name)
        self._end(pod, PodReason.COMPLETED if exit_code == 0 else PodReason.ERROR, "", exit_code)
        self._settle()

    def write_log(self, namespace: str, name: str, data: bytes) -> None:
        """The pod's command writes."""
        uid = self._pod(namespace, name).uid
        self._logs[uid] = self._logs.get(uid, b"") + data

    def spec_of(self, namespace: str, name: str) -> PodSpec:
        """What the pod was created with."""
        return self._specs[self._pod(namespace, name).uid]

    # Cluster

    def staleness(self) -> float:
        """See `Cluster`."""
        return 0.0

    async def list_nodes(self, labels: Mapping[str, str] | None = None) -> Sequence[Node]:
        """See `Cluster`."""
        return [node for _, node in sorted(self._nodes.items()) if matches(node.labels, labels)]

    async def get_node(self, name: str) -> Node:
        """See `Cluster`."""
        return self._node(name)

    async def patch_node(self, name: str, patch: NodePatch, *, expected_version: str | None = None) -> Node:
        """See `Cluster`."""
        node = self._node(name)
        if expected_version is not None and expected_version != node.resource_version:
            raise Aborted(
                f"node {name} has version {node.resource_version}, not {expected_version}",
                reason="NODE_CHANGED",
                metadata={"node": name, "version": node.resource_version},
            )
        patched = apply_patch(node, patch)
        if patched != node:
            patched = replace(patched, resource_version=str(int(node.resource_version) + 1))
            self._nodes[name] = patched
            self._board.node_changed(name)
            self._settle()
        return patched

    async def create_pod(self, spec: PodSpec) -> Pod:
        """See `Cluster`."""
        check_spec(spec)
        if spec.node is not None:
            self._node(spec.node)
        key = (spec.namespace, spec.name)
        if key in self._pods:
            raise AlreadyExists(f"pod {spec.namespace}/{spec.name} exists", reason="POD_EXISTS")
        pod = Pod(
            name=spec.name,
            uid=new_uid(),
            namespace=spec.namespace,
            phase=PodPhase.PENDING,
            gpus=spec.gpus,
            labels=spec.labels,
            annotations=spec.annotations,
            created_at=self.clock.now(),
            reason=PodReason.UNSCHEDULABLE,
        )
        self._specs[pod.uid] = spec
        if spec.owner is not None:
            self._owners.setdefault((spec.owner.namespace, spec.owner.name), spec.owner)
        if spec.node is not None:
            pod = self._admit(replace(pod, node=spec.node, reason=""))
        self._store(pod)
        self._settle()
        return self._pods[key]

    async def get_pod(self, namespace: str, name: str) -> Pod:
        """See `Cluster`."""
        return self._pod(namespace, name)

    async def list_pods(
        self, labels: Mapping[str, str] | None = None, *, namespace: str | None = None
    ) -> Sequence[Pod]:
        """See `Cluster`."""
        pods = (pod for _, pod in sorted(self._pods.items()))
        return [pod for pod in pods if matches(pod.labels, labels) and namespace in (None, pod.namespace)]

    async def delete_pod(
        self, namespace: str, name: str, uid: str | None = None, grace_seconds: float | None = None, force: bool = False
    ) -> None:
        """See `Cluster`."""
        pod = self._pod(namespace, name)
        if uid is not None and uid != pod.uid:
            raise Aborted(f"pod {namespace}/{name} is another pod now (uid {pod.uid})", reason="UID_DIFFERS")
        reachable = pod.node is None or self._node(pod.node).ready
        if force or (reachable and (pod.phase is not PodPhase.RUNNING or name not in self.stubborn)):
            self._remove(pod)
        else:
            self._store(replace(pod, deletion_requested=True))
        self._settle()

    async def list_owners(self, labels: Mapping[str, str] | None = None) -> Sequence[PodOwner]:
        """See `Cluster`."""
        return [owner for _, owner in sorted(self._owners.items()) if matches(owner.labels, labels)]

    async def delete_owner(self, namespace: str, name: str) -> None:
        """See `Cluster`."""
        owner = self._owners.pop((namespace, name), None)
        for pod in list(self._pods.values()) if owner is not None else ():
            if self._specs[pod.uid].owner == owner:
                await self.delete_pod(pod.namespace, pod.name, pod.uid)

    async def watch(
        self, labels: Mapping[str, str] | None = None, *, namespace: str | None = None
    ) -> AsyncIterator[ClusterEvent]:
        """See `Cluster`."""
        with self._board.watching(labels, namespace) as watcher:
            yield ClusterEvent(EventKind.RESYNC)
            async for event in watcher.events():
                yield event

    async def pod_logs(
        self, namespace: str, name: str, *, follow: bool = False, tail_lines: int | None = None
    ) -> AsyncIterator[bytes]:
        """See `Cluster`; `follow` gives what there is."""
        data = self._logs.get(self._pod(namespace, name).uid, b"")
        if tail_lines is not None:
            data = b"".join(data.splitlines(keepends=True)[-tail_lines:]) if tail_lines else b""
        if data:
            yield data

    async def close(self) -> None:
        """See `Cluster`."""

    # The rest is how it works

    def _node(self, name: str) -> Node:
        try:
            return self._nodes[name]
        except KeyError:
            raise NotFound(f"there is no node {name}", reason="NODE_NOT_FOUND", metadata={"node": name}) from None

    def _pod(self, namespace: str, name: str) -> Pod:
        try:
            return self._pods[namespace, name]
        except KeyError:
            raise NotFound(f"there is no pod {namespace}/{name}", reason="POD_NOT_FOUND") from None

    def _on(self, node: str) -> list[Pod]:
        return [pod for pod in self._pods.values() if pod.node == node]

    def _used(self, node: str) -> int:
        return gpus_used(self._pods.values(), node)

    def _store(self, pod: Pod) -> None:
        self._pods[pod.namespace, pod.name] = pod
        self._board.pod_changed(pod.namespace, pod.name, pod.labels)

    def _remove(self, pod: Pod) -> None:
        del self._pods[pod.namespace, pod.name]
        self._board.pod_changed(pod.namespace, pod.name, pod.labels)

    def _admit(self, pod: Pod) -> Pod:
        """What the node makes of a pod that is bound to it."""
        assert pod.node is not None
        node = self._node(pod.node)
        if not node.ready:
            return pod
        others = gpus_used((other for other in self._pods.values() if other.uid != pod.uid), node.name)
        if pod.gpus > node.gpus_total - others:
            message = f"the pod asks for {pod.gpus} GPUs, node {node.name} has {node.gpus_total - others} free"
            return replace(
                pod, phase=PodPhase.FAILED, reason=PodReason.OUT_OF_GPUS, message=message, finished_at=self.clock.now()
            )
        return replace(pod, phase=PodPhase.RUNNING, reason="", pod_ip=FAKE_POD_IP, started_at=self.clock.now())

    def _end(self, pod: Pod, reason: PodReason, message: str, exit_code: int | None) -> None:
        if pod.deletion_requested:
            self._remove(pod)
            return
        phase = PodPhase.SUCCEEDED if reason is PodReason.COMPLETED else PodPhase.FAILED
        self._store(
            replace(
                pod,
                phase=phase,
                reason=reason,
                message=message,
                exit_code=exit_code,
                pod_ip="",
                finished_at=self.clock.now(),
            )
        )

    def _settle(self) -> None:
        """Bind and start what can be."""
        for pod in list(self._pods.values()):
            if pod.phase is not PodPhase.PENDING:
                continue
            if pod.node is None:
                spec = self._specs[pod.uid]
                home = next((node for node in self._sorted() if fits(node, self._used(node.name), spec)), None)
                if home is not None:
                    self._store(self._admit(replace(pod, node=home.name)))
            elif (admitted := self._admit(pod)) != pod:
                self._store(admitted)

    def _sorted(self) -> list[Node]:
        return [self._nodes[name] for name in sorted(self._nodes)]
