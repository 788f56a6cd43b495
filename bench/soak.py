"""A long run under kill -9 of everything, against the same run left alone.

`make soak` (STEPS, SEED). Two installations, one after the other, as `longhaul up` makes them: six services, three
nodes, one warm spare. In the second something is killed every few seconds: a worker, an agent, a node, a service, or
several of them at once. Services are started again by their supervisor, nodes from here. Every loss, gradient norm,
validation loss and score must then be the same bits as in the first.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "e2e")]

from longhaul.evaluation.v1 import evaluation_pb2  # noqa: E402 - found through the path above
from longhaul.training.v1 import training_run_pb2 as pb  # noqa: E402 - as above
from longhaul_client import Client, read_recipe, submit  # noqa: E402 - as above
from longhaul_client.local.layout import SERVICES, load_layout  # noqa: E402 - as above
from longhaul_client.report.collect import list_metrics  # noqa: E402 - as above
from longhaul_client.sdk import call  # noqa: E402 - as above
from longhaul_client.watching import TERMINAL_RUN_STATES  # noqa: E402 - as above
from longhaul_core.cluster.local.launch import running_nodes  # noqa: E402 - as above
from longhaul_core.errors import LonghaulError, Unavailable  # noqa: E402 - as above

from tests.e2e.installation import Installation, agent_of  # noqa: E402 - as above
from tests.e2e.recipes import recipe, write_documents, write_recipe  # noqa: E402 - as above

KINDS = ("worker", "agent", "node", *SERVICES, "several")
PAUSE_SECONDS = (4.0, 12.0)
DEADLINE_SECONDS = 3600.0
SCORES = 10


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is left of a run: by step its loss, gradient norm and validation loss, by step and task its scores."""

    rows: dict[int, tuple[str, str, str]]
    scores: dict[tuple[int, str], str]
    status: pb.TrainingRunStatus
    kills: Counter[str]


def main() -> None:
    """Runs it twice and compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        texts = write_documents(Path(folder) / "texts", documents=2000, seed=5)
        path = write_recipe(Path(folder) / "soak.yaml", plan(texts, asked.steps))
        alone = train(Path(folder) / "alone", path, None)
        broken = train(Path(folder) / "broken", path, random.Random(asked.seed))
    met = [
        report("soak_rows_that_differ", differences(alone.rows, broken.rows), "of the steps", len(alone.rows)),
        report("soak_scores_that_differ", differences(alone.scores, broken.scores), "of the scores", len(alone.scores)),
    ]
    kills = {kind: broken.kills[kind] for kind in KINDS[:-1]}
    about = {"kills": kills, "incidents": len(broken.status.incidents), "epochs": broken.status.epoch}
    print(json.dumps(about), flush=True)
    print(f"soak: {sum(met)} of {len(met)} targets met")
    if not broken.status.incidents:
        sys.exit("soak: no kill met the run, so nothing was tested; take more STEPS or another SEED")
    sys.exit(0 if all(met) else 1)


def plan(texts: Path, steps: int) -> dict[str, Any]:
    """Default periods of checks; checkpoints and validation as often as a run of months would see them in its life."""
    return recipe(
        "soak",
        texts,
        training={
            "steps": steps,
            "schedule": {"warmup_steps": 100},
            "validation": {"every_steps": 500, "sequences": 8},
            "data": {"sequence_length": 64, "global_batch_size": 4, "micro_batch_size": 2, "maximum_epochs": 1e6},
        },
        checkpoints={"every_steps": 100},
        evaluation={"tasks": [{"task": "bits_per_byte"}], "every_steps": max(steps // SCORES // 100, 1) * 100},
        resources={"nodes": 2, "spares": 1},
    )


def train(folder: Path, path: Path, rng: random.Random | None) -> Outcome:
    """The recipe on an installation of its own; with a generator of random numbers, under kills."""
    installation = Installation(folder)
    installation.up("--nodes", "3")
    kills: Counter[str] = Counter()
    planned: list[str] = []
    try:
        with installation.client() as client:
            pipeline = submit(client, read_recipe(path))
            deadline = time.monotonic() + DEADLINE_SECONDS
            while (status := run_status(client, pipeline.run)).state not in TERMINAL_RUN_STATES:
                assert time.monotonic() < deadline, f"{pipeline.run} is still {status}"
                time.sleep(rng.uniform(*PAUSE_SECONDS) if rng else 1.0)
                if rng and status.step:
                    installation.up("--nodes", "3")
                    planned = planned or rng.sample(KINDS, len(KINDS))
                    kills.update(break_something(installation, run_status(client, pipeline.run), planned.pop(), rng))
            assert status.state == pb.TRAINING_RUN_STATE_SUCCEEDED, status.reason
            rows = {row.step: values(row) for row in list_metrics(client, pipeline.run)}
            scores = all_scores(client, pipeline.run, deadline)
            return Outcome(rows, scores, status, kills)
    finally:
        installation.down()


def run_status(client: Client, run: str) -> pb.TrainingRunStatus:
    """The run's status, as soon as a service answers."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            return call(client.runs.GetTrainingRun, pb.GetTrainingRunRequest(name=run)).status
        except Unavailable:
            assert time.monotonic() < deadline
            time.sleep(0.5)


def values(row: pb.StepMetrics) -> tuple[str, str, str]:
    validation = row.validation_loss.hex() if row.HasField("validation_loss") else ""
    return row.loss.hex(), row.gradient_norm.hex(), validation


def all_scores(client: Client, run: str, deadline: float) -> dict[tuple[int, str], str]:
    """Scores of every checkpoint that is to be evaluated, once they are all there."""
    while True:
        with suppress(LonghaulError):
            request = evaluation_pb2.GetScoreCurveRequest(training_run=run)
            points = call(client.evaluations.GetScoreCurve, request).points
            found = {(point.step, score.task): score.value.hex() for point in points for score in point.scores}
            if len(found) >= SCORES:
                return found
        assert time.monotonic() < deadline, "the checkpoints are not all scored"
        time.sleep(1.0)


def break_something(
    installation: Installation, status: pb.TrainingRunStatus, kind: str, rng: random.Random
) -> list[str]:
    """Kills one or several at once; returns what was killed."""
    chosen = rng.sample(KINDS[:-1], 3) if kind == "several" else [kind]
    return [one for one in chosen if killed(installation, status, one, rng)]


def killed(installation: Installation, status: pb.TrainingRunStatus, kind: str, rng: random.Random) -> bool:
    """Whether there was such a process to kill."""
    try:
        if kind == "node":
            pid = rng.choice(sorted(running_nodes(installation.data_dir / "cluster").values()))
        elif kind in SERVICES:
            layout = load_layout(installation.data_dir)
            assert layout is not None
            pid = layout.processes[kind].pid
        else:
            worker = rng.choice(status.ranks).process_id
            pid = worker if kind == "worker" else agent_of(worker)
        os.kill(pid, signal.SIGKILL)
    except (IndexError, KeyError, StopIteration, ProcessLookupError, psutil.Error):
        return False  # an earlier kill is still being mended
    return True


def differences(left: dict[Any, Any], right: dict[Any, Any]) -> int:
    return sum(left.get(key) != right.get(key) for key in left.keys() | right.keys())


def report(bench: str, found: int, unit: str, of: int) -> bool:
    """One line; whether the target is met."""
    row = {"bench": bench, "ours": found, "peer": 0, "peer_name": "the run left alone", "unit": f"{unit} ({of})"}
    print(json.dumps({**row, "ratio": None, "target": "0"}), flush=True)
    return found == 0 and of > 0


if __name__ == "__main__":
    main()
