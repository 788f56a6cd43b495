"""The training service on a Kubernetes API in memory; the suite plays the kubelets."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TESTS = HERE.parents[1]
sys.path[:0] = [str(TESTS / "cluster"), str(TESTS / "contract" / "recovery")]
sys.path[:0] = [str(HERE.parent / "training"), str(HERE.parent / "trainer")]
pytest.register_assert_rewrite("recovery_contract", "training_contract", "training_lab", "training_harness")

from fakekube import FakeKubernetes  # noqa: E402 - found through the path above
from training_lab import Background, KubeLab, open_lab  # noqa: E402


@pytest.fixture(scope="session")
def background() -> Iterator[Background]:
    made = Background()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def api(background: Background) -> Iterator[FakeKubernetes]:
    server = FakeKubernetes()
    background.run(server.start())
    yield server
    background.run(server.stop())


@pytest.fixture(scope="session")
def kube(
    background: Background,
    api: FakeKubernetes,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[KubeLab]:
    folder = tmp_path_factory.mktemp("kube")
    kubeconfig = api.write_kubeconfig(folder / "kubeconfig")
    with open_lab(folder, background, kubeconfig, "lab-runs", request) as lab:
        yield lab


@pytest.fixture(scope="session")
def lab(kube: KubeLab) -> KubeLab:
    """The cluster of the suite for every cluster."""
    return kube
