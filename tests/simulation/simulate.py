"""Runs seeds of the controller's simulation on all cores: `python tests/simulation/simulate.py --seeds 10000`.

A seed that fails is printed with what broke and can be run again alone with --first SEED --seeds 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from longhaul_core.collector import spare_collector
from scenario import EXPECTED, Outcome, run_seed

SEEDS_A_CHUNK = 4


class Seen(Counter[str]):
    """What happened over all seeds, by name."""

    def missing(self) -> set[str]:
        """What should have happened and never did."""
        return EXPECTED - set(self)


def run_seeds(seeds: Iterable[int], workers: int = 0, every: int = 0) -> tuple[list[str], Seen]:
    """Problems of all seeds, and what happened in them; `every`: a line of progress after so many."""
    problems: list[str] = []
    seen = Seen()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers or os.cpu_count() or 1, mp_context=context, initializer=spare_collector) as pool:
        outcomes: Iterable[Outcome] = pool.map(run_seed, seeds, chunksize=SEEDS_A_CHUNK)
        for number, outcome in enumerate(outcomes, 1):
            seen.update(outcome.seen)
            if outcome.problem:
                problems.append(outcome.problem)
                print(outcome.problem, flush=True)
            if every and number % every == 0:
                print(f"{number} seeds, {len(problems)} failed", flush=True)
    return problems, seen


def main() -> int:
    """Runs the seeds that were asked for; 1 when one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one a core")
    asked = parser.parse_args()
    started = time.monotonic()
    problems, seen = run_seeds(range(asked.first, asked.first + asked.seeds), asked.workers, every=500)
    print("what happened:", ", ".join(f"{name} {count}" for name, count in sorted(seen.items())))
    print(f"simulation: {asked.seeds} seeds in {time.monotonic() - started:.0f} s, {len(problems)} failed")
    return 1 if problems or (asked.seeds >= 150 and seen.missing()) else 0


if __name__ == "__main__":
    sys.exit(main())
