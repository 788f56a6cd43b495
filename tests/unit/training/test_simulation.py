"""Seeds of the simulation: whatever happens, nothing is lost, doubled, or left behind."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from longhaul_core.db import Database, events
from longhaul_training.adapters import run_store, task_store
from longhaul_training.adapters.project_store import ProjectStore
from longhaul_training.adapters.run_store import RunStore
from longhaul_training.adapters.task_store import TaskStore
from longhaul_training.domain.states import RunState
from simulation import PROJECT, STEPS, TOKEN_SET, Simulation

FIRST_SEED, SEEDS = (
    int(os.environ.get(f"LONGHAUL_SIMULATION_{name}", default)) for name, default in (("FIRST_SEED", 0), ("SEEDS", 24))
)
FAULT_SECONDS = 70
CALM_SECONDS = 400
seen: Counter[str] = Counter()


@pytest.fixture(scope="module")
def fast_folder() -> Iterator[Path]:
    """Memory, where there is some: what a power cut leaves is not what these tests are about."""
    root = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=root, prefix="simulation-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def template(fast_folder: Path) -> Path:
    path = fast_folder / "template.sqlite3"
    Database.open(f"sqlite:///{path}").close()
    return path


def run_spec(spares: int) -> dict[str, object]:
    return {
        "trainer_config": {"steps": STEPS},
        "token_set": TOKEN_SET,
        "resources": {"nodes": 2, "gpus_per_node": 1, "spares": spares, "priority": 0, "pool": "", "image": ""},
        "recipe": "",
        "code_version": "",
        "labels": {},
    }


async def populate(simulation: Simulation) -> None:
    for number in range(6):
        simulation.cluster.add_node(f"node-{number}")
    await ProjectStore(simulation.db, simulation.clock).create(PROJECT, {}, "")
    runs, tasks = RunStore(simulation.db, simulation.clock), TaskStore(simulation.db, simulation.clock)
    for run, spares in (("one", 1), ("two", 0)):
        await runs.create(PROJECT, run, run_spec(spares), run, "")
        simulation.states[run] = []
    spec = {
        "kind": "SCORE",
        "arguments": {},
        "result_key": "k",
        "gpus": 1,
        "node": "",
        "timeout_seconds": 0,
        "retries": 1,
    }
    await tasks.create(PROJECT, "score", spec, "score", "")


async def finish_tasks(simulation: Simulation) -> None:
    """The programs of task pods end well after a while."""
    for pod in simulation.pods():
        if pod.labels["longhaul.dev/kind"] == "task" and pod.phase.value == "Running" and simulation.rng.random() < 0.3:
            simulation.cluster.finish_pod(PROJECT, pod.name, 0)


async def note_states(simulation: Simulation) -> bool:
    """Records the states and checks that none leaves a terminal one; whether all are terminal and nothing is left."""
    over = True
    for run, states in simulation.states.items():
        state = (await simulation.users.get(PROJECT, run)).run.control.state
        if not states or states[-1] is not state:
            assert not (states and states[-1].terminal), f"{run} left {states[-1]} for {state}"
            states.append(state)
        over = over and state.terminal
    task = await TaskStore(simulation.db, simulation.clock).get(PROJECT, "score")
    return over and task.task.control.state.terminal and not simulation.pods()


async def check_history(simulation: Simulation, run: str) -> None:
    """Transitions form one chain; a run that succeeded has every step once; epochs only grow."""
    happened = await simulation.db.read(
        lambda session: events.list_events(session, run_store.KIND, PROJECT, run, 0, 10_000)
    )
    moves = [event.data for event in happened if event.type == "STATE_CHANGED"]
    assert [move["from"] for move in moves] == ["QUEUED", *(move["to"] for move in moves[:-1])]
    epochs = [move["epoch"] for move in moves]
    assert epochs == sorted(epochs)
    stored = await simulation.users.get(PROJECT, run)
    process = simulation.process
    assert process is not None
    rows = await process.reports.history(PROJECT, run, stored.run.uid, -1, 10_000)
    if stored.run.control.state is RunState.SUCCEEDED:
        assert [row.step for row in rows] == list(range(1, STEPS + 1))
        assert [row.values["loss"] for row in rows] == [1.0 / step for step in range(1, STEPS + 1)]
        assert stored.run.control.open_incident is None
    elif stored.run.control.state is RunState.CANCELLED:
        assert run in simulation.cancelled
    else:
        exhausted = stored.run.control.failures.without_progress > 3
        assert exhausted, f"{run} failed for no reason: {stored.run.control.reason}"


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SEEDS))
async def test_simulated_faults_lose_and_double_nothing(seed: int, fast_folder: Path, template: Path) -> None:
    folder = fast_folder / str(seed)
    folder.mkdir()
    simulation = Simulation(seed, folder, template)
    await populate(simulation)
    for _ in range(FAULT_SECONDS):
        if simulation.rng.random() < 0.25:
            await simulation.fault()
        await finish_tasks(simulation)
        await simulation.tick()
        await note_states(simulation)
    await simulation.calm()
    for _ in range(CALM_SECONDS):
        await finish_tasks(simulation)
        await simulation.tick()
        if await note_states(simulation):
            break
    else:
        left = {run: str(states[-1]) for run, states in simulation.states.items()}
        raise AssertionError(f"not over: {left}, pods {[(p.name, p.phase, p.node) for p in simulation.pods()]}")
    for run in simulation.states:
        await check_history(simulation, run)
    for run in simulation.cancelled:
        assert simulation.states[run][-1] is RunState.CANCELLED or RunState.SUCCEEDED in simulation.states[run]
    created = sum(len(states) for states in simulation.states.values())
    assert simulation.calls["create_pod"] <= 40 + 4 * created
    task = await TaskStore(simulation.db, simulation.clock).get(PROJECT, "score")
    assert task.row.kind == task_store.KIND
    simulation.db.close()
    seen.update(simulation.seen)
    seen["checkpoint of an old epoch refused"] += simulation.checkpoints.refused


def test_every_fault_of_the_simulation_has_happened() -> None:
    """Runs after the seeds: a fault that never fired proves nothing."""
    if sum(seen.values()) == 0:
        pytest.skip("no seeds were run")
    wanted = {
        "controller crash",
        "worker killed",
        "pod killed",
        "node killed",
        "node back",
        "agent away",
        "drain asked",
        "drain acknowledged",
        "cluster away",
        "checkpoints away",
        "rows recovered",
        "pause",
        "resume",
        "cancel",
    }
    assert wanted <= set(seen), wanted - set(seen)
