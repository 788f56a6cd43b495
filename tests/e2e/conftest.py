"""One installation is shared by the tests that do not break it."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from installation import Installation


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Services with four pretend nodes, up for the whole test session."""
    shared = Installation(tmp_path_factory.mktemp("longhaul"))
    shared.up("--nodes", "4")
    yield shared
    shared.down()


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of text that the filters keep."""
    from recipes import write_documents

    return write_documents(tmp_path_factory.mktemp("documents"))


@pytest.fixture(scope="session")
def finished(installation: Installation, documents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of a pipeline whose submitting client was killed, and which went on to its end without it."""
    from recipes import recipe, write_recipe

    path = write_recipe(tmp_path_factory.mktemp("pipeline") / "recipe.yaml", recipe("whole", documents))
    arguments = [sys.executable, "-m", "longhaul_client", "--data-dir", str(installation.data_dir), "run", str(path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert "submitted" in client.stdout.readline()
        client.send_signal(signal.SIGKILL)
    assert client.returncode == -signal.SIGKILL
    done = installation.longhaul("runs", "watch", "whole")
    assert done.returncode == 0, done.stdout + done.stderr
    return path
