"""Seeds of the simulation: whatever happens, nothing is lost, doubled, or left behind."""

from __future__ import annotations

from simulate import run_seeds

SEEDS = 160


def test_simulated_faults_lose_and_double_nothing() -> None:
    problems, seen = run_seeds(range(SEEDS))
    assert not problems, problems
    assert seen.missing() == set(), "a fault that never fired proves nothing"


def test_seed_that_is_run_again_does_the_same() -> None:
    from scenario import run_seed

    first, second = run_seed(7), run_seed(7)
    assert first.problem == ""
    assert first.trace == second.trace
