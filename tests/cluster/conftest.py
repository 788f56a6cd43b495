"""The cluster of KUBECONFIG, or the API server of KUBEBUILDER_ASSETS."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "contract" / "cluster"))
sys.path.insert(0, str(Path(__file__).parent))
sys.path[:0] = [str(Path(__file__).parents[1] / "integration" / part) for part in ("training", "trainer")]
sys.path.insert(0, str(Path(__file__).parents[1] / "contract" / "recovery"))
pytest.register_assert_rewrite(
    "recovery_contract", "training_contract", "training_lab", "training_harness", "test_cluster"
)

from apiserver import ApiServer  # noqa: E402 - found through the path above
from handle import FAST, OTHER_NAMESPACE, KubernetesHandle  # noqa: E402 - found through the path above
from longhaul_core.cluster.kubernetes import KubernetesOptions  # noqa: E402 - found through the path above
from longhaul_core.cluster.kubernetes.credentials import Credentials  # noqa: E402 - found through the path above
from longhaul_core.cluster.kubernetes.transport import Transport  # noqa: E402 - found through the path above
from player import Player  # noqa: E402 - found through the path above
from training_lab import Background, KubeLab, open_lab  # noqa: E402 - found through the path above

DEADLINE_SECONDS = 30.0
KUBECONFIG, ASSETS = "KUBECONFIG", "KUBEBUILDER_ASSETS"


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """A KUBECONFIG in the environment is no order to test on that cluster: `-m cluster` is."""
    return None if "cluster" in config.getoption("markexpr") else True


@pytest.fixture(scope="session")
def kubeconfig() -> Iterator[Path]:
    """The kubeconfig of the cluster under test."""
    if given := os.environ.get(KUBECONFIG):
        yield Path(given)
    elif assets := os.environ.get(ASSETS):
        with ApiServer(Path(assets)) as server:
            yield server.kubeconfig
    else:
        pytest.skip(f"neither {KUBECONFIG} nor {ASSETS} is set")


@pytest.fixture(scope="session")
def namespace(kubeconfig: Path) -> Iterator[str]:
    """A namespace of this session, removed with its neighbour at the end."""
    name = f"longhaul-test-{uuid.uuid4().hex[:8]}"
    yield name
    asyncio.run(_remove_namespaces(kubeconfig, name))


@pytest.fixture
async def handle(kubeconfig: Path, namespace: str, tmp_path: Path) -> AsyncIterator[KubernetesHandle]:
    made = KubernetesHandle(kubeconfig, tmp_path, namespace)
    await made.prepare()
    yield made
    await made.close()


@pytest.fixture(scope="session")
def kube(
    kubeconfig: Path, namespace: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[KubeLab]:
    """The training service on that cluster, in a namespace of its own."""
    background = Background()
    with open_lab(tmp_path_factory.mktemp("kube"), background, kubeconfig, f"{namespace}-runs", request) as lab:
        yield lab
    asyncio.run(_remove_namespaces(kubeconfig, lab.namespace))
    background.stop()


@pytest.fixture(scope="session")
def lab(kube: KubeLab) -> KubeLab:
    """The cluster of the suite for every cluster."""
    return kube


@pytest.fixture
def eventually() -> Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]:
    async def wait(condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await condition():  # noqa: ASYNC110 (any condition can be waited for)
                await asyncio.sleep(0.1)

    return wait


async def _remove_namespaces(kubeconfig: Path, name: str) -> None:
    transport = Transport(Credentials(KubernetesOptions(kubeconfig=str(kubeconfig))), FAST)
    player = Player(transport, (name, OTHER_NAMESPACE))
    for each in player.namespaces:
        await player.remove_namespace(each)
    await transport.close()
