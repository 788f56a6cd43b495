"""One seed of the simulation from beginning to end, with everything that must hold on the way and at the end.

Invariants: no run is lost, every accepted cancel ends, terminal is terminal, no GPU is used twice, no pod is left
behind, no stale term or epoch commits anything, every step is there once with its value, calls of the cluster are
bounded.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from longhaul_core.db import Database, events
from longhaul_core.db.events import EventRow
from longhaul_core.db.prepared import Prepared
from longhaul_core.db.schema import resources
from longhaul_core.db.session import Session
from longhaul_core.logging import configure_logging
from longhaul_core.recipe import TrainerConfig
from longhaul_training.adapters import run_store, task_store
from longhaul_training.adapters.project_store import ProjectStore
from longhaul_training.adapters.run_store import RunStore
from longhaul_training.adapters.task_store import TaskStore
from longhaul_training.domain.states import RunState
from longhaul_training.domain.tasks import TaskState
from simulation import PROJECT, STEPS, TOKEN_SET, Simulation
from sqlalchemy import bindparam, select

FAULT_SECONDS = 36
CALM_SECONDS = 400
REMARKABLE = (
    "PREEMPTION_STARTED",
    "SHRUNK",
    "GROWN",
    "DIAGNOSIS_STARTED",
    "NODES_SUSPECTED",
    "NODE_ACCUSED",
    "SPARE_PLACED",
    "SPARE_LOST",
)
EXPECTED = {
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
    "database away",
    "rows recovered",
    "pause",
    "resume",
    "cancel",
    "node sick",
    "node checked",
    "spare placed while a node is accused",
    "result doubted",
    "deposed leader refused STALE_TERM",
    *REMARKABLE,
}
"""What must have happened over enough seeds: a fault that never fired proves nothing."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened in one seed; `trace` is the digest of all its events, the same whenever the seed is run again."""

    seed: int
    seen: Counter[str]
    trace: str
    problem: str = ""


def memory_root() -> str | None:
    """Memory, where there is some: what a power cut leaves is not what this is about."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def run_seed(seed: int) -> Outcome:
    """Runs one seed; a broken invariant is an outcome with a problem."""
    configure_logging("simulation", "critical")
    with tempfile.TemporaryDirectory(dir=memory_root(), prefix="simulation-") as root:
        folder = Path(root)
        simulation = Simulation(seed, folder, _template(folder))
        try:
            trace = asyncio.run(_play(simulation))
        except Exception as error:
            return Outcome(seed, simulation.seen, "", f"seed {seed}: {type(error).__name__}: {error}")
        finally:
            simulation.db.close()
        return Outcome(seed, simulation.seen, trace)


_schema: bytes = b""


def _template(folder: Path) -> Path:
    """An empty database; migrated once a process."""
    global _schema
    path = folder / "template.sqlite3"
    if not _schema:
        Database.open(f"sqlite:///{path}").close()
        _schema = path.read_bytes()
    path.write_bytes(_schema)
    return path


async def _play(simulation: Simulation) -> str:
    await populate(simulation)
    for _ in range(FAULT_SECONDS):
        if simulation.rng.random() < 0.25:
            await simulation.fault()
        await submit_urgent(simulation)
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
    simulation.db_down = 0
    traces = [await check_history(simulation, run) for run in simulation.states]
    for run in simulation.cancelled:
        states = simulation.states[run]
        assert states[-1] is RunState.CANCELLED or RunState.SUCCEEDED in states, f"{run} was not cancelled"
    created = sum(len(states) for states in simulation.states.values())
    assert simulation.calls["create_pod"] <= 40 + 4 * created, "too many calls of the cluster"
    simulation.seen["checkpoint of an old epoch refused"] += simulation.checkpoints.refused
    return hashlib.sha256("".join(traces).encode()).hexdigest()


def run_spec(nodes: int = 2, spares: int = 0, priority: int = 0, **options: object) -> dict[str, object]:
    resources = {"nodes": nodes, "gpus_per_node": 1, "spares": spares, "priority": priority, "pool": "", "image": ""}
    config = TrainerConfig.model_validate({"steps": STEPS, "schedule": {"warmup_steps": 0}})
    return {
        "trainer_config": config.model_dump(mode="json"),
        "token_set": TOKEN_SET,
        "resources": resources | options,
        "recipe": "",
        "code_version": "",
        "labels": {},
    }


async def populate(simulation: Simulation) -> None:
    for number in range(6):
        simulation.cluster.add_node(f"node-{number}")
    await ProjectStore(simulation.db, simulation.clock).create(PROJECT, {}, "")
    runs, tasks = RunStore(simulation.db, simulation.clock), TaskStore(simulation.db, simulation.clock)
    specs = {
        "one": run_spec(spares=1),
        "two": run_spec(minimum_nodes=1, preflight="full"),
    }
    for run, asked in specs.items():
        await runs.create(PROJECT, run, asked, run, "")
        simulation.states[run] = []
    simulation.urgent_at = simulation.rng.uniform(5.0, FAULT_SECONDS)
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


async def submit_urgent(simulation: Simulation) -> None:
    """A run of a higher priority comes along and needs most of the cluster."""
    if "urgent" in simulation.states or simulation.now < simulation.urgent_at:
        return
    spec = run_spec(nodes=4, priority=5)
    await RunStore(simulation.db, simulation.clock).create(PROJECT, "urgent", spec, "urgent", "")
    simulation.states["urgent"] = []


async def finish_tasks(simulation: Simulation) -> None:
    """The programs of task pods end well after a while."""
    for pod in simulation.pods():
        if pod.labels["longhaul.dev/kind"] == "task" and pod.phase.value == "Running" and simulation.rng.random() < 0.3:
            simulation.cluster.finish_pod(PROJECT, pod.name, 0)


_COLUMNS = (resources.c.kind, resources.c.id, resources.c.state)
_STATES = Prepared(select(*_COLUMNS).where(resources.c.project == bindparam("of_project"), ~resources.c.deleted))


def _states(session: Session) -> tuple[dict[str, str], str]:
    states = {(kind, id): state for kind, id, state in _STATES.rows(session, {"of_project": PROJECT})}
    return {id: state for (kind, id), state in states.items() if kind == run_store.KIND}, states[
        task_store.KIND, "score"
    ]


async def note_states(simulation: Simulation) -> bool:
    """Records the states and checks that none leaves a terminal one; whether all are terminal and nothing is left."""
    found, task_state = await simulation.db.read(_states)
    over = TaskState(task_state).terminal
    for run, states in simulation.states.items():
        state = RunState(found[run])
        if not states or states[-1] is not state:
            assert not (states and states[-1].terminal), f"{run} left {states[-1]} for {state}"
            states.append(state)
        over = over and state.terminal
    return over and not simulation.pods()


async def check_history(simulation: Simulation, run: str) -> str:
    """Transitions form one chain; a run that succeeded has every step once; epochs only grow. Returns its events."""
    happened = await simulation.db.read(
        lambda session: events.list_events(session, run_store.KIND, PROJECT, run, 0, 10_000)
    )
    simulation.seen.update(event.type for event in happened if event.type in REMARKABLE)
    check_spares(simulation, happened)
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
    return "".join(f"{event.type} {event.cause} {event.message}\n" for event in happened)


def check_spares(simulation: Simulation, happened: Sequence[EventRow]) -> None:
    """No spare is placed on a node that the run accused and that neither a later check nor gpuhealth cleared."""
    accused: set[str] = set()
    for event in happened:
        if event.type == "NODE_ACCUSED":
            accused |= {str(event.data["node"])} - simulation.ever_drained
        elif event.type == "DIAGNOSIS_CLEAR" or event.cause == "PREFLIGHT_PASSED":
            accused.clear()
        elif event.type == "SPARE_PLACED" and accused:
            simulation.seen["spare placed while a node is accused"] += 1
            assert not [node for node in accused if event.message.endswith(f" on {node}")], event.message
