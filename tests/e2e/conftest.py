"""One installation is shared by the tests that do not break it."""

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
