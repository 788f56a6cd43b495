"""Seeds of the simulation: whatever happens, nothing is lost, doubled, or left behind.

The seeds are run in blocks, so that all workers of the tests share them. What must have happened is looked for over
all blocks together, by the one that ends last.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from simulate import Seen, run_seeds

BLOCKS = 4
SEEDS_A_BLOCK = 40


@pytest.fixture(scope="session")
def sightings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this session that its workers share: each block leaves what happened in it."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "simulation-sightings"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize("block", range(BLOCKS))
def test_simulated_faults_lose_and_double_nothing(block: int, sightings: Path) -> None:
    first = block * SEEDS_A_BLOCK
    problems, seen = run_seeds(range(first, first + SEEDS_A_BLOCK), workers=1)
    _leave(sightings / f"{block}.json", seen)
    assert not problems, problems
    blocks = [Seen(json.loads(path.read_text())) for path in sightings.glob("*.json")]
    if len(blocks) == BLOCKS:
        together = Seen(sum(blocks, Seen()))
        assert together.missing() == set(), "a fault that never fired proves nothing"


def _leave(path: Path, seen: Seen) -> None:
    """Writes it whole or not at all, since another block may be reading."""
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(seen))
    unfinished.rename(path)


def test_seed_that_is_run_again_does_the_same() -> None:
    from scenario import run_seed

    first, second = run_seed(7), run_seed(7)
    assert first.problem == ""
    assert first.trace == second.trace
