"""The controller in this process on a cluster in memory, with agents that are played."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from control_plane import NODE_PREFIX, TOKEN_SET, LateCluster
from longhaul_core.clock import SystemClock
from longhaul_core.collector import spare_collector
from longhaul_core.db import Database
from longhaul_core.metrics import Metrics
from longhaul_core.objects import open_store
from longhaul_core.recipe import TrainerConfig
from longhaul_training.adapters.attention import Attention
from longhaul_training.adapters.cluster_view import ClusterView
from longhaul_training.adapters.commands import StartWorkers
from longhaul_training.adapters.controller import Controller
from longhaul_training.adapters.controller_metrics import ControllerMetrics
from longhaul_training.adapters.controller_parts import Parts
from longhaul_training.adapters.executor import Executor
from longhaul_training.adapters.hub import AgentHub, AgentSession
from longhaul_training.adapters.leadership import Leadership
from longhaul_training.adapters.metric_journal import MetricJournal
from longhaul_training.adapters.pod_identity import PodIdentity
from longhaul_training.adapters.pod_specs import PodEnvironment
from longhaul_training.adapters.project_store import ProjectStore
from longhaul_training.adapters.report_store import ReportStore
from longhaul_training.adapters.run_store import RunStore
from longhaul_training.adapters.task_store import TaskStore
from longhaul_training.domain.actions import PrepareEpoch
from longhaul_training.domain.observations import InputStatus, InputView, Limits, WorkerView
from longhaul_training.domain.reports import WorkerExit
from longhaul_training.domain.states import RunState

PROJECT = "default"


class Neighbours:
    """Corpus, checkpoint and gpuhealth, when nothing is wrong."""

    def __init__(self) -> None:
        self.drains: dict[str, Any] = {}

    async def begin_epoch(self, run: str, epoch: int, *, rollback: bool) -> None:
        """There is no checkpoint."""

    def view(self, name: str) -> InputView:
        """The token set is there."""
        return InputView(InputStatus.READY, "", "key", "digest")

    def need(self, projects: Any) -> None:
        """Nothing is to be watched."""


class Plane:
    """One controller and its world."""

    def __init__(self, folder: Path, nodes: int, gpus: int, latency_seconds: float) -> None:
        self.clock = SystemClock()
        self.db = Database.open(f"sqlite:///{folder / 'training.sqlite3'}")
        self.cluster = LateCluster(self.clock)
        LateCluster.latency_seconds = latency_seconds
        for number in range(nodes):
            self.cluster.add_node(f"{NODE_PREFIX}{number:05d}", gpus=gpus)
        self.gpus = gpus
        self.stop = asyncio.Event()
        self.leadership = Leadership(self.db, self.clock, "bench:0", 3600.0)
        self.attention = Attention(self.clock)
        self.wakeup = asyncio.Event()
        self.hub = AgentHub(self.attention, 5.0, self.wakeup.set)
        self.runs, self.tasks = RunStore(self.db, self.clock), TaskStore(self.db, self.clock)
        objects = open_store(f"file://{folder / 'objects'}")
        journal = MetricJournal(objects, lambda data: ())
        self.reports = ReportStore(self.db, objects, self.clock, journal)
        self.sessions: dict[str, AgentSession] = {}
        self.metrics = ControllerMetrics(Metrics("training"))
        self.renew()

    def renew(self) -> None:
        """A controller that remembers nothing, as after a start."""
        neighbours: Any = Neighbours()
        self.view = ClusterView(self.cluster, self.clock, self.wakeup.set)
        environment = PodEnvironment("bench:0", "file:///o", "bench:1", Path("/s"))
        self.executor = Executor(
            self.cluster,
            self.hub,
            neighbours,
            neighbours,
            self.runs,
            self.reports,
            self.leadership,
            PodIdentity(b"key"),
            self.clock,
            environment,
            self.wakeup.set,
        )
        parts = Parts(
            cluster=self.view,
            hub=self.hub,
            health=neighbours,
            token_sets=neighbours,
            executor=self.executor,
            leadership=self.leadership,
            runs=self.runs,
            tasks=self.tasks,
            metrics=self.metrics,
        )
        self.controller = Controller(self.db, self.clock, parts, Limits(), self.wakeup)

    async def open(self) -> None:
        """Takes the lease, and treats the garbage collector as a service does."""
        spare_collector()
        await ProjectStore(self.db, self.clock).ensure_default()
        won = asyncio.Event()
        self.leadership.on_change(won.set)
        self.campaign = asyncio.create_task(self.leadership.run(self.stop))
        await won.wait()

    async def close(self) -> None:
        """Gives it back."""
        self.stop.set()
        await self.campaign
        self.db.close()

    async def submit(self, run_id: str, nodes: int) -> None:
        """Accepts a run."""
        await self.runs.create(PROJECT, run_id, run_spec(nodes, self.gpus), run_id, "")

    async def look(self) -> float:
        """One pass of the controller; seconds."""
        term = self.leadership.term
        assert term is not None
        self.attention.beat()
        self.view.mark_dirty()
        started = time.perf_counter()
        await self.controller.look(term.number)
        return time.perf_counter() - started

    async def settle(self) -> None:
        """Lets all actions end."""
        await self.executor.settle()

    def play_agents(self) -> None:
        """Agents of all pods join, obey, step, and are heard: silent ones would make their runs suspect."""
        for pod in list(self.cluster._pods.values()):
            if pod.name not in self.sessions:
                owner = pod.labels["longhaul.dev/owner"]
                session = self.sessions[pod.name] = AgentSession(pod.name, PROJECT, owner, 1)
                self.hub.attach(session, 0, (), ())
        for session in self.sessions.values():
            self.hub.touched(session)
            while not session.outgoing.empty():
                self._obey(session, session.outgoing.get_nowait())

    def _obey(self, session: AgentSession, command: Any) -> None:
        match command:
            case PrepareEpoch():
                self.hub.prepared(session, command.epoch, f"{session.pod}:1" if command.bind_rendezvous else "")
            case StartWorkers():
                workers = tuple(WorkerView(rank, "stepping", 1) for rank in command.ranks)
                self.hub.heard(session, command.epoch, workers)

    async def states(self) -> dict[str, RunState]:
        """States of all runs."""
        return {item.run.id: item.run.control.state for item in self.controller._runs.items.values()}

    async def kill_worker(self, run_id: str) -> None:
        """Rank 0 of a run ends with signal 9, and its agent reports it."""
        stored = await self.runs.get(PROJECT, run_id)
        run, term = stored.run, self.leadership.term
        assert term is not None
        pod = run.pod_name(run.members[0])
        sequence = int(stored.row.status["sequences"].get(pod, 0)) + 1
        report = WorkerExit(pod, run.control.epoch, 0, -9, time.time(), 1)
        await self.reports.apply(PROJECT, run_id, {pod: [(sequence, report)]}, term.number)


def run_spec(nodes: int, gpus: int) -> dict[str, Any]:
    """A run of so many nodes."""
    config = TrainerConfig.model_validate({"data": {"global_batch_size": nodes * gpus, "micro_batch_size": 1}})
    return {
        "trainer_config": config.model_dump(mode="json"),
        "token_set": TOKEN_SET,
        "resources": {"nodes": nodes, "gpus_per_node": gpus, "spares": 0, "priority": 0, "pool": "", "image": ""},
        "recipe": "",
        "code_version": "",
        "labels": {},
    }
