"""kill -9 of each part of a run, and of all at once: the resumed run has the same losses, bit for bit.

Agents and the controller alone are killed in the suite of recovery that every kind of cluster runs.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from installation import Installation, agent_of
from longhaul.training.v1 import training_run_pb2
from longhaul_client import Client, convert, read_recipe, submit
from longhaul_client.local.layout import load_layout
from longhaul_client.report.collect import list_metrics
from longhaul_client.sdk import call
from longhaul_client.watching import TERMINAL_RUN_STATES
from longhaul_core.errors import Unavailable
from recipes import recipe, write_recipe

from tests.conftest import is_alive

KILL_AFTER_STEP = 14
"""Between the checkpoints of steps 10 and 20, so that steps are made again."""

STEPS = 40

STEP_SECONDS = 0.12
"""What a step of a run to be killed takes at least, so that it is met in the middle however fast the machine is."""
DEADLINE_SECONDS = 200


@pytest.fixture(scope="module")
def breakable(tmp_path_factory: pytest.TempPathFactory):
    """An installation of its own: its services are killed."""
    broken = Installation(tmp_path_factory.mktemp("breakable"))
    broken.up("--nodes", "3")
    yield broken
    broken.down()


@pytest.fixture(scope="module")
def base(breakable: Installation, documents: Path, tmp_path_factory: pytest.TempPathFactory):
    """The unbroken run: its specification and its losses."""
    training = {
        "steps": STEPS,
        "schedule": {"warmup_steps": 4},
        "data": {"sequence_length": 64, "global_batch_size": 4, "micro_batch_size": 2},
        "validation": {"every_steps": 20, "sequences": 4},
    }
    document = recipe(
        "unbroken",
        documents,
        training=training,
        evaluation={"tasks": [{"task": "bits_per_byte"}], "every_steps": STEPS},
    )
    path = write_recipe(tmp_path_factory.mktemp("crashes") / "recipe.yaml", document)
    with breakable.client() as client:
        read = read_recipe(path)
        pipeline = submit(client, read)
        wait_for(client, pipeline.run, lambda status: status.state in TERMINAL_RUN_STATES)
        spec = convert.training_run_spec(read, token_set=pipeline.token_set, code_version="test")
        return spec, losses(client, pipeline.run)


def losses(client: Client, run: str) -> list[tuple[int, str, str]]:
    """Return step, loss and gradient norm of every step, as exact text."""
    return [(row.step, row.loss.hex(), row.gradient_norm.hex()) for row in list_metrics(client, run)]


def wait_for(
    client: Client, run: str, condition: Callable[[training_run_pb2.TrainingRunStatus], bool]
) -> training_run_pb2.TrainingRunStatus:
    deadline = time.monotonic() + DEADLINE_SECONDS
    status = None
    while True:
        with suppress(Unavailable):  # it is being started again
            status = call(client.runs.GetTrainingRun, training_run_pb2.GetTrainingRunRequest(name=run)).status
            if condition(status):
                return status
        assert time.monotonic() < deadline, f"{run} is still {status}"
        time.sleep(0.05)


def kill_worker(installation: Installation, status: training_run_pb2.TrainingRunStatus) -> list[int]:
    return [status.ranks[1].process_id]


def kill_agent(installation: Installation, status: training_run_pb2.TrainingRunStatus) -> list[int]:
    return [agent_of(status.ranks[1].process_id)]


def kill_service(name: str) -> Callable[[Installation, training_run_pb2.TrainingRunStatus], list[int]]:
    def choose(installation: Installation, status: training_run_pb2.TrainingRunStatus) -> list[int]:
        layout = load_layout(installation.data_dir)
        assert layout is not None
        return [layout.processes[name].pid]

    return choose


def kill_everything(installation: Installation, status: training_run_pb2.TrainingRunStatus) -> list[int]:
    choices = (kill_worker, kill_agent, kill_service("training"), kill_service("checkpoint"))
    return [pid for choose in choices for pid in choose(installation, status)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("victim", "choose"),
    [
        ("worker", kill_worker),
        ("checkpoint-store", kill_service("checkpoint")),
        ("all-at-once", kill_everything),
    ],
)
def test_run_broken_by_kill_has_the_same_losses(breakable: Installation, base, victim: str, choose):
    spec, expected = base
    spec.resources.pod.update({"env": {"TRAINER_DRILL": f"step={STEP_SECONDS}"}})
    with breakable.client() as client:
        request = training_run_pb2.CreateTrainingRunRequest(
            parent="projects/default", training_run_id=f"killed-{victim}", spec=spec
        )
        run = call(client.runs.CreateTrainingRun, request).metadata.name
        status = wait_for(client, run, lambda status: status.step >= KILL_AFTER_STEP and len(status.ranks) == 2)
        assert status.step < STEPS, "the run was over before anything was killed"
        killed = [psutil.Process(pid) for pid in choose(breakable, status)]
        for process in killed:
            os.kill(process.pid, signal.SIGKILL)
        gone, there = psutil.wait_procs(killed, timeout=10)
        assert not [process for process in there if is_alive(process.pid)], gone

        deadline = time.monotonic() + DEADLINE_SECONDS
        while not all(row["serving"] for row in breakable.json_unchecked("status")):
            assert time.monotonic() < deadline, "a killed service was not started again"
        ended = wait_for(client, run, lambda status: status.state in TERMINAL_RUN_STATES)
        assert ended.state == training_run_pb2.TRAINING_RUN_STATE_SUCCEEDED, ended.reason
        assert losses(client, run) == expected
        if victim in ("worker", "all-at-once"):
            assert ended.incidents, "nothing says that anything was killed"
            assert ended.epoch > 1


def test_up_starts_a_dead_node_again_and_leaves_the_others_alone(breakable: Installation) -> None:
    before = {row["name"]: row["pid"] for row in breakable.json("status") if row["name"].startswith("node-")}
    os.kill(before["node-1"], signal.SIGKILL)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while [row["name"] for row in breakable.json_unchecked("status") if not row["alive"]] != ["node-1"]:
        assert time.monotonic() < deadline, "it does not show as dead"
    breakable.up("--nodes", "3")
    after = {row["name"]: row["pid"] for row in breakable.json("status") if row["name"].startswith("node-")}
    assert after.pop("node-1") != before.pop("node-1")
    assert after == before
