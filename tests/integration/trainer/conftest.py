from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from trainer_harness import CheckpointServer, World, finish, make_token_set, nursery, start_workers

LONG_RUN: dict[str, Any] = {"steps": 60, "checkpoint": {"every_steps": 10}, "validation": {"every_steps": 0}}


@contextmanager
def open_world(folder: Path) -> Iterator[World]:
    url = f"file://{folder / 'objects'}"
    server = CheckpointServer(url)
    yield World(folder, url, make_token_set(url), server)
    server.stop()


@pytest.fixture(scope="session", autouse=True)
def close_nursery() -> Iterator[None]:
    yield
    if nursery.cache_info().currsize:
        nursery().close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A store with a small token set, and a checkpoint service before it."""
    with open_world(tmp_path) as opened:
        yield opened


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """Losses of the long run on two ranks without a fault."""
    with open_world(tmp_path_factory.mktemp("unbroken")) as opened:
        rows = finish(start_workers(opened, 2, trainer_config=opened.config(**LONG_RUN)))
        return {row.step: row.loss for row in rows}


@pytest.fixture
def long_run(world: World) -> dict[str, Any]:
    """Configuration of the run that `unbroken` made."""
    return world.config(**LONG_RUN)
