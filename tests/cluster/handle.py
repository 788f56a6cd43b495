"""The powers of a contract test over a Kubernetes cluster, played or real."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from longhaul_core.clock import SystemClock
from longhaul_core.cluster import DEFAULT_NAMESPACE, ClusterEvent, Node, NodePatch, Pod, PodSpec
from longhaul_core.cluster.kubernetes import KubernetesCluster, KubernetesOptions
from longhaul_core.cluster.kubernetes.credentials import Credentials
from longhaul_core.cluster.kubernetes.timing import Timing
from longhaul_core.cluster.kubernetes.transport import Transport
from player import SCHEDULER, Player

IMAGE = "registry.k8s.io/pause:3.10"
OTHER_NAMESPACE = "team-b"
FAST = Timing(
    request=5.0,
    connect=1.0,
    retry_base=0.02,
    window=3.0,
    window_slack=1.0,
    backoff_base=0.05,
    backoff_longest=0.3,
    blind=0.5,
    settle=1.0,
    explain_after=0.1,
    explain_again=0.3,
    explain_round=0.1,
)


class SettlingCluster:
    """A cluster whose writes return after the played kubelets have dealt with them, as on the other implementations."""

    def __init__(self, cluster: KubernetesCluster, player: Player) -> None:
        self.inner = cluster
        self.player = player

    def staleness(self) -> float:
        return self.inner.staleness()

    async def list_nodes(self, labels: Mapping[str, str] | None = None) -> Sequence[Node]:
        return await self.inner.list_nodes(labels)

    async def get_node(self, name: str) -> Node:
        return await self.inner.get_node(name)

    async def patch_node(self, name: str, patch: NodePatch, *, expected_version: str | None = None) -> Node:
        patched = await self.inner.patch_node(name, patch, expected_version=expected_version)
        await self.player.settle()
        return patched

    async def create_pod(self, spec: PodSpec) -> Pod:
        pod = await self.inner.create_pod(spec)
        await self.player.settle()
        return await self.inner.get_pod(pod.namespace, pod.name)

    async def get_pod(self, namespace: str, name: str) -> Pod:
        return await self.inner.get_pod(namespace, name)

    async def list_pods(
        self, labels: Mapping[str, str] | None = None, *, namespace: str | None = None
    ) -> Sequence[Pod]:
        return await self.inner.list_pods(labels, namespace=namespace)

    async def delete_pod(
        self, namespace: str, name: str, uid: str | None = None, grace_seconds: float | None = None, force: bool = False
    ) -> None:
        await self.inner.delete_pod(namespace, name, uid, grace_seconds, force)
        await self.player.settle()

    def watch(
        self, labels: Mapping[str, str] | None = None, *, namespace: str | None = None
    ) -> AsyncIterator[ClusterEvent]:
        return self.inner.watch(labels, namespace=namespace)

    def pod_logs(
        self, namespace: str, name: str, *, follow: bool = False, tail_lines: int | None = None
    ) -> AsyncIterator[bytes]:
        return self.inner.pod_logs(namespace, name, follow=follow, tail_lines=tail_lines)

    async def close(self) -> None:
        await self.inner.close()


class KubernetesHandle:
    """Works in a namespace of its own with the Pod Security level "restricted" and on nodes that it plays."""

    def __init__(self, kubeconfig: Path, folder: Path, namespace: str = "longhaul-test") -> None:
        template = folder / "pod-template.yaml"
        template.write_text(yaml.safe_dump({"spec": {"schedulerName": SCHEDULER}}))
        self.namespace = namespace
        self.options = KubernetesOptions(
            namespace=self.namespace,
            scope=(self.namespace, OTHER_NAMESPACE),
            kubeconfig=str(kubeconfig),
            template=str(template),
        )
        self.kubeconfig = kubeconfig
        self.player = Player(Transport(Credentials(self.options), FAST), (self.namespace, OTHER_NAMESPACE))
        self.clusters: list[KubernetesCluster] = []
        self.cluster = self.another_client()

    async def prepare(self) -> None:
        for name in self.player.namespaces:
            await self.player.ensure_namespace(name)

    def another_client(self) -> SettlingCluster:
        cluster = KubernetesCluster.open(self.options, SystemClock(), FAST)
        self.clusters.append(cluster)
        return SettlingCluster(cluster, self.player)

    async def add_node(self, name: str, *, gpus: int = 1, labels: Mapping[str, str] | None = None) -> None:
        await self.player.add_node(name, gpus, dict(labels or {}))

    async def kill_node(self, name: str) -> None:
        await self.player.silence_node(name)

    async def restart_node(self, name: str) -> None:
        await self.player.revive_node(name)

    def running(self, name: str, **fields: Any) -> PodSpec:
        return PodSpec(name=name, command=("/pause",), image=IMAGE, **fields)

    async def finish(self, name: str, exit_code: int, namespace: str = DEFAULT_NAMESPACE) -> None:
        place = self.namespace if namespace == DEFAULT_NAMESPACE else namespace
        await self.player.finish(place, name, exit_code)

    async def close(self) -> None:
        await self.player.clear()
        for cluster in self.clusters:
            await cluster.close()
        await self.player.transport.close()
