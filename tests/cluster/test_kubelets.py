"""What only real kubelets can show; skipped where no node of the cluster is ready."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import yaml
from handle import KubernetesHandle
from longhaul_core.clock import SystemClock
from longhaul_core.cluster import PodPhase, PodReason, PodSpec
from longhaul_core.cluster.kubernetes import KubernetesCluster, KubernetesOptions
from longhaul_core.errors import NotFound
from player import MARK

pytestmark = pytest.mark.cluster
Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
IMAGE = os.environ.get("LONGHAUL_TEST_IMAGE", "busybox:1.37")
USER = {"spec": {"securityContext": {"runAsUser": 65532}}}


@pytest.fixture
async def cluster(handle: KubernetesHandle, tmp_path: Path) -> AsyncIterator[KubernetesCluster]:
    template = tmp_path / "kubelet-template.yaml"
    template.write_text(yaml.safe_dump(USER))
    options = KubernetesOptions(
        namespace=handle.namespace,
        scope=(handle.namespace,),
        kubeconfig=handle.options.kubeconfig,
        template=str(template),
    )
    made = KubernetesCluster.open(options, SystemClock())
    real = [node for node in await made.list_nodes() if MARK not in node.annotations]
    if not any(node.ready and not node.unschedulable for node in real):
        await made.close()
        pytest.skip("no kubelet: no node of the cluster is ready")
    yield made
    for pod in await made.list_pods(namespace=handle.namespace):
        await made.delete_pod(pod.namespace, pod.name, pod.uid, force=True)
    await made.close()


async def test_pod_runs_writes_and_ends_with_its_code(cluster: KubernetesCluster, eventually: Eventually) -> None:
    spec = PodSpec(name="ends", command=("sh", "-c", "echo hello; exit 75"), image=IMAGE)
    await cluster.create_pod(spec)

    async def ended() -> bool:
        return (await cluster.get_pod("default", "ends")).phase is PodPhase.FAILED

    await eventually(ended)
    pod = await cluster.get_pod("default", "ends")
    assert (pod.exit_code, pod.reason) == (75, PodReason.ERROR)
    assert b"".join([piece async for piece in cluster.pod_logs("default", "ends")]) == b"hello\n"


async def test_pod_that_is_deleted_gets_its_grace(cluster: KubernetesCluster, eventually: Eventually) -> None:
    spec = PodSpec(name="runs", command=("sleep", "600"), image=IMAGE, grace_seconds=2)
    pod = await cluster.create_pod(spec)

    async def runs() -> bool:
        return (await cluster.get_pod("default", "runs")).phase is PodPhase.RUNNING

    async def gone() -> bool:
        try:
            await cluster.get_pod("default", "runs")
        except NotFound:
            return True
        return False

    await eventually(runs)
    await cluster.delete_pod("default", "runs", pod.uid)
    await eventually(gone)


@pytest.mark.parametrize(
    ("name", "image", "overlay", "reason"),
    [
        ("no-image", "registry.invalid/none:1", {}, PodReason.IMAGE_UNAVAILABLE),
        (
            "no-secret",
            IMAGE,
            {"spec": {"containers": [{"name": "main", "envFrom": [{"secretRef": {"name": "absent"}}]}]}},
            PodReason.SECRET_MISSING,
        ),
    ],
)
async def test_pod_that_cannot_start_says_why(
    cluster: KubernetesCluster, eventually: Eventually, name: str, image: str, overlay: dict[str, object], reason: str
) -> None:
    await cluster.create_pod(PodSpec(name=name, command=("true",), image=image, overlay=overlay))

    async def told() -> bool:
        return (await cluster.get_pod("default", name)).reason == reason

    await eventually(told)
    assert (await cluster.get_pod("default", name)).message
