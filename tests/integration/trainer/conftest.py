from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from trainer_harness import CheckpointServer, World, make_token_set


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A store with a small token set, and a checkpoint service before it."""
    url = f"file://{tmp_path / 'objects'}"
    key = make_token_set(url)
    server = CheckpointServer(url)
    yield World(tmp_path, url, key, server)
    server.stop()
