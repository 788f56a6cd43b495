"""A seeded simulation of the controller: the real one, on an in-memory cluster, with agents that are played.

Virtual time in ticks of a second. Faults come at any tick; the controller's process may die before or after any of
its writes and calls. Nothing else is replaced: records, metrics and leases are in a real database.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from longhaul_core.clock import ManualClock
from longhaul_core.cluster import FakeCluster, PodPhase
from longhaul_core.db import Database
from longhaul_core.db import leases as lease_table
from longhaul_core.db.revisions import current_revision
from longhaul_core.db.schema import leases
from longhaul_core.errors import Aborted, FailedPrecondition, LonghaulError, PermissionDenied, Unavailable
from longhaul_core.metric_journal import JournalSpan
from longhaul_core.metrics import Metrics
from longhaul_core.objects import open_store
from longhaul_training.adapters import leadership as leadership_module
from longhaul_training.adapters.attention import Attention
from longhaul_training.adapters.cluster_view import ClusterView
from longhaul_training.adapters.commands import StartWorkers
from longhaul_training.adapters.controller import Controller
from longhaul_training.adapters.controller_metrics import ControllerMetrics
from longhaul_training.adapters.controller_parts import Parts
from longhaul_training.adapters.executor import Executor
from longhaul_training.adapters.hub import AgentHub, AgentSession
from longhaul_training.adapters.leadership import Term
from longhaul_training.adapters.metric_journal import MetricJournal, Rows
from longhaul_training.adapters.pod_environment import PodEnvironment
from longhaul_training.adapters.pod_identity import PodIdentity
from longhaul_training.adapters.reception import Arrival, Reception
from longhaul_training.adapters.report_store import (
    NODE_CHECKED,
    NODE_SUSPECT,
    EventReport,
    FinishReport,
    NoticeReport,
    Report,
    ReportStore,
    StepReport,
)
from longhaul_training.adapters.run_store import RunStore
from longhaul_training.adapters.task_store import TaskStore
from longhaul_training.domain.actions import (
    AccuseNode,
    AcknowledgeDrain,
    PrepareEpoch,
    RunEvent,
    StopAfterCheckpoint,
)
from longhaul_training.domain.checkup_record import Finding
from longhaul_training.domain.observations import DrainView, InputStatus, InputView, Limits, WorkerView
from longhaul_training.domain.reports import StepRow, WorkerExit
from longhaul_training.domain.states import ResumePoint
from longhaul_training.domain.verbs import cancel, pause, resume

PROJECT = "p"
TOKEN_SET = "projects/p/tokenSets/t"
STEPS = 14
CHECKPOINT_EVERY = 4
IDENTITY = PodIdentity(b"key")
LIMITS = Limits(
    join=30.0,
    start=60.0,
    drain=15.0,
    cancel=10.0,
    hang=30.0,
    backoff_maximum=8.0,
    check=40.0,
    elastic_patience=5.0,
)


class Crashed(Exception):  # noqa: N818
    """The controller's process is dead."""


class Doom:
    """Kills the process at the n-th write or call, before or after its effect; then nothing works any more."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def pass_by(self) -> None:
        self.steps -= 1
        if self.steps <= 0:
            raise Crashed


class DirectDatabase:
    """The database on the thread of the event loop: a seed makes thousands of transactions, each a hop otherwise."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def run(self, fn: Callable[[Any], Any]) -> Any:
        return self._db.run_sync(fn)

    async def read(self, fn: Callable[[Any], Any]) -> Any:
        return self._db.read_sync(fn)

    def close(self) -> None:
        self._db.close()


class DoomedDatabase:
    def __init__(self, world: Simulation, doom: Doom) -> None:
        self._world = world
        self._db = world.db
        self._doom = doom

    async def run(self, fn: Callable[[Any], Any]) -> Any:
        self._check()
        self._doom.pass_by()
        result = await self._db.run(fn)
        self._doom.pass_by()
        return result

    async def read(self, fn: Callable[[Any], Any]) -> Any:
        self._check()
        return await self._db.read(fn)

    def _check(self) -> None:
        if self._world.db_down > 0:
            raise Unavailable("the database does not answer")


class DoomedCluster:
    def __init__(self, world: Simulation, doom: Doom) -> None:
        self._world = world
        self._doom = doom

    async def list_nodes(self) -> Any:
        self._check()
        return await self._world.cluster.list_nodes()

    async def list_pods(self, labels: Any = None) -> Any:
        self._check()
        return await self._world.cluster.list_pods(labels)

    async def create_pod(self, spec: Any) -> Any:
        self._check()
        self._world.calls["create_pod"] += 1
        return await self._doomed(lambda: self._world.cluster.create_pod(spec))

    async def delete_pod(self, *arguments: Any, **options: Any) -> None:
        self._check()
        self._world.calls["delete_pod"] += 1
        await self._doomed(lambda: self._world.cluster.delete_pod(*arguments, **options))

    def staleness(self) -> float:
        return 0.0

    async def list_owners(self, labels: Any = None) -> Any:
        self._check()
        return await self._world.cluster.list_owners(labels)

    async def delete_owner(self, namespace: str, name: str) -> None:
        self._check()
        await self._doomed(lambda: self._world.cluster.delete_owner(namespace, name))

    async def _doomed(self, act: Callable[[], Awaitable[Any]]) -> Any:
        self._doom.pass_by()
        result = await act()
        self._doom.pass_by()
        return result

    def _check(self) -> None:
        if self._world.api_down > 0:
            raise Unavailable("the cluster does not answer")


@dataclass
class CheckpointStore:
    """Fences epochs; commits on the line of the newest."""

    world: Simulation
    epochs: dict[str, int] = field(default_factory=dict)
    lines: dict[str, list[int]] = field(default_factory=dict)
    refused: int = 0

    def bind(self, doom: Doom) -> BoundCheckpoints:
        return BoundCheckpoints(self, doom)

    def commit(self, run: str, step: int, epoch: int) -> bool:
        if epoch < self.epochs.get(run, 0):
            self.refused += 1
            return False
        line = self.lines.setdefault(run, [])
        if step not in line:
            line.append(step)
        return True


class BoundCheckpoints:
    def __init__(self, store: CheckpointStore, doom: Doom) -> None:
        self._store = store
        self._doom = doom

    async def begin_epoch(self, run: str, epoch: int, *, rollback: bool) -> ResumePoint | None:
        store = self._store
        if store.world.checkpoints_down > 0:
            raise Unavailable("the checkpoint service does not answer")
        self._doom.pass_by()
        assert epoch >= store.epochs.get(run, 0), "an older epoch is registered after a newer one"
        store.epochs[run] = epoch
        self._doom.pass_by()
        held = store.lines.get(run, [])
        return ResumePoint(f"{run}@{max(held)}", f"key-{max(held)}", max(held)) if held else None


class Health:
    def __init__(self, world: Simulation) -> None:
        self._world = world

    @property
    def drains(self) -> Mapping[str, DrainView]:
        return self._world.drains

    async def accuse(self, action: AccuseNode) -> str:
        assert action.node in self._world.ever_sick, f"{action.node} was never sick"
        self._world.seen["node accused"] += 1
        return "QUARANTINED"

    async def acknowledge(self, action: AcknowledgeDrain) -> None:
        alive = [p for p in self._world.pods() if p.node == action.node and p.holds_gpus]
        assert not alive, "a drain was acknowledged while a pod is on the node"
        self._world.drains.pop(action.node, None)
        self._world.seen["drain acknowledged"] += 1


class TokenSets:
    def view(self, name: str) -> InputView:
        return InputView(InputStatus.READY, "", "key", "digest")

    def need(self, projects: Any) -> None:
        """Everything is there."""


class Leading:
    """Leads until it is told that it is dead."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.alive = True

    @property
    def term(self) -> Term | None:
        return Term(self._number, 0.0) if self.alive else None

    async def leader_address(self) -> str:
        return ""


class Process:
    """One life of the controller."""

    def __init__(self, world: Simulation, term: int, doom: Doom) -> None:
        db: Any = DoomedDatabase(world, doom)
        cluster: Any = DoomedCluster(world, doom)
        self.term = term
        self.leadership: Any = Leading(term)
        self.attention = Attention(world.clock)
        wakeup = asyncio.Event()
        self.hub = AgentHub(self.attention, 5.0, wakeup.set)
        self.runs = RunStore(db, world.clock)
        self.reports = ReportStore(db, world.objects, world.clock, MetricJournal(world.objects, world.decode_rows))
        self.view = ClusterView(cluster, world.clock, wakeup.set)
        self.executor = Executor(
            cluster,
            self.hub,
            world.checkpoints.bind(doom),  # type: ignore[arg-type]
            Health(world),  # type: ignore[arg-type]
            self.runs,
            self.reports,
            self.leadership,
            IDENTITY,
            world.clock,
            PodEnvironment("c", "file:///o", "k", Path("/s")),
            wakeup.set,
        )
        self.reception = Reception(self.runs, self.reports, self.hub, IDENTITY, self.leadership, wakeup.set)
        parts = Parts(
            cluster=self.view,
            hub=self.hub,
            health=Health(world),  # type: ignore[arg-type]
            token_sets=TokenSets(),  # type: ignore[arg-type]
            executor=self.executor,
            leadership=self.leadership,
            runs=self.runs,
            tasks=TaskStore(db, world.clock),
            metrics=ControllerMetrics(Metrics("training")),
        )
        self.controller = Controller(db, world.clock, parts, LIMITS, wakeup)

    async def look(self, *, fresh: bool) -> None:
        self.attention.beat()
        if fresh:
            self.view.mark_dirty()
        try:
            await self.controller.look(self.term)
        except Unavailable:
            self.attention.beat()
        finally:
            await self.executor.settle()
        self.executor.check()


@dataclass(eq=False)
class Agent:
    """The agent of one pod, with one worker."""

    run: str
    pod: str
    uid: str
    slot: int
    incarnation: int
    rank: int = 0
    world: int = 0
    checking: bool = False
    session: AgentSession | None = None
    process: Process | None = None
    away_until: float = 0.0
    epoch: int = 0
    working: int = 0
    phase: str = ""
    ready_at: float = 0.0
    step: int = 0
    dies_at: float = 0.0
    stop_after: bool = False
    finished: bool = False
    sequence: int = 0
    outbox: list[tuple[int, Report]] = field(default_factory=list)
    unsaved: list[StepRow] = field(default_factory=list)

    def report(self, report: Report) -> None:
        self.sequence += 1
        self.outbox.append((self.sequence, report))

    def workers(self) -> tuple[WorkerView, ...]:
        return (WorkerView(self.rank, self.phase, self.step),) if self.working else ()


class SimulatedClock(ManualClock):
    """Waiting takes no time: whoever waits is asked again at the next tick."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


class Simulation:
    """One seed."""

    def __init__(self, seed: int, folder: Path, template: Path) -> None:
        self.rng = random.Random(seed)
        self.clock = SimulatedClock(datetime(2026, 1, 1, tzinfo=UTC))
        shutil.copy(template, folder / "training.sqlite3")
        self.db: Any = DirectDatabase(Database.open(f"sqlite:///{folder / 'training.sqlite3'}"))
        self.objects = open_store(f"file://{folder / 'objects'}")
        self.cluster = FakeCluster(self.clock)
        self.checkpoints = CheckpointStore(self)
        self.drains: dict[str, DrainView] = {}
        self.agents: dict[str, Agent] = {}
        self.seen: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.api_down = 0
        self.db_down = 0
        self.checkpoints_down = 0
        self.process: Process | None = None
        self.boot_at = 0.0
        self.term = 0
        self.states: dict[str, list[str]] = {}
        self.cancelled: set[str] = set()
        self.urgent_at = 0.0
        self.sick: set[str] = set()
        self.ever_sick: set[str] = set()
        self.ever_drained: set[str] = set()
        self.fatal: set[str] = set()
        self.quiet = False
        self.users = RunStore(self.db, self.clock)

    @property
    def now(self) -> float:
        return self.clock.monotonic()

    @property
    def db_writes(self) -> int:
        """Revisions so far: each commit raises them."""
        return int(self.db._db.read_sync(current_revision))

    def pods(self) -> list[Any]:
        return [pod for _, pod in sorted(self.cluster._pods.items())]

    async def tick(self) -> None:
        self.clock.advance(1.0)
        self.api_down = max(0, self.api_down - 1)
        self.db_down = max(0, self.db_down - 1)
        self.checkpoints_down = max(0, self.checkpoints_down - 1)
        for pod in self.pods():
            assert pod.reason != "OutOfGpus", f"{pod.name} was placed where no GPU is free"
        await self._play_agents()
        await self._live()

    async def _live(self) -> None:
        """The controller looks, or dies doing so, or is started again."""
        if self.process is None:
            if self.now < self.boot_at:
                return
            self.term += 1
            await self.db.run(self._take_over)
            steps = 10**9 if self.quiet else self.rng.randint(5, 400)
            self.process = Process(self, self.term, Doom(steps))
        try:
            await self.process.look(fresh=self.quiet or self.rng.random() < 0.8)
        except Crashed:
            self._die()

    def _die(self) -> None:
        assert self.process is not None
        self.seen["controller crash"] += 1
        self.process.leadership.alive = False
        self.process = None
        self.boot_at = self.now + self.rng.choice([0.0, 0.0, 2.0, 12.0])

    def _take_over(self, session: Any) -> None:
        session.execute(leases.update().values(expires_at=datetime(2000, 1, 1, tzinfo=UTC)))
        lease = lease_table.acquire(session, leadership_module.LEASE_NAME, f"life-{self.term}", "", 1e9)
        assert lease is not None
        self.term = lease.term

    # Agents

    async def _play_agents(self) -> None:
        alive = {
            pod.uid: pod
            for pod in self.pods()
            if pod.phase is PodPhase.RUNNING and pod.labels["longhaul.dev/kind"] == "run"
        }
        for uid in [uid for uid in self.agents if uid not in alive]:
            self._detach(self.agents.pop(uid))
        for uid, pod in alive.items():
            if uid not in self.agents and self.rng.random() < 0.6:
                labels = pod.labels
                self.agents[uid] = Agent(
                    labels["longhaul.dev/owner"],
                    pod.name,
                    uid,
                    int(labels["longhaul.dev/slot"]),
                    int(labels["longhaul.dev/incarnation"]),
                )
        for agent in list(self.agents.values()):
            self._work(agent)
        for agent in list(self.agents.values()):
            await self._talk(agent)

    def _detach(self, agent: Agent) -> None:
        if agent.session is not None and agent.process is self.process and self.process is not None:
            self.process.hub.detach(agent.session)
        agent.session = None

    async def _talk(self, agent: Agent) -> None:
        if agent.process is not self.process:
            agent.session = None
        if self.process is None or self.now < agent.away_until:
            self._detach(agent)
            return
        try:
            if agent.session is None:
                await self._join(agent)
            await self._exchange(agent)
        except Crashed:
            self._die()
        except (FailedPrecondition, PermissionDenied):
            self.seen["pod superseded"] += 1
            self.cluster.finish_pod(PROJECT, agent.pod, 75)
        except LonghaulError:
            self.seen["report refused"] += 1
            self._detach(agent)

    async def _join(self, agent: Agent) -> None:
        assert self.process is not None
        run = await self.users.get(PROJECT, agent.run)
        token = IDENTITY.issue(run.run.name, run.run.uid, agent.slot, agent.incarnation)
        arrival = Arrival(
            PROJECT, agent.run, agent.pod, agent.slot, agent.incarnation, 1, agent.epoch, agent.workers(), token
        )
        admission = await self.process.reception.admit(arrival, self.process.term)
        agent.session, agent.process = admission.session, self.process
        agent.outbox = [(number, report) for number, report in agent.outbox if number > admission.acknowledged]

    async def _exchange(self, agent: Agent) -> None:
        """Commands in, heartbeat and reports out; a report may be sent twice."""
        process, session = self.process, agent.session
        assert process is not None
        assert session is not None
        while not session.outgoing.empty():
            command = session.outgoing.get_nowait()
            if command is None:
                self._detach(agent)
                return
            self._obey(agent, command)
        if self.cluster._pods.get((PROJECT, agent.pod)) is None:
            return
        process.hub.heard(session, agent.epoch, agent.workers())
        if agent.outbox:
            batch = list(agent.outbox)
            await process.reports.apply(PROJECT, agent.run, {agent.pod: batch}, session.term)
            if self.rng.random() < 0.9:
                agent.outbox = agent.outbox[len(batch) :]

    def _obey(self, agent: Agent, command: Any) -> None:
        match command:
            case PrepareEpoch() if command.epoch >= agent.epoch:
                if command.epoch > agent.epoch:
                    agent.epoch, agent.working, agent.phase = command.epoch, 0, ""
                    agent.stop_after, agent.dies_at, agent.finished = False, 0.0, False
                assert agent.session is not None
                assert self.process is not None
                address = f"{agent.pod}:{command.epoch}" if command.bind_rendezvous else ""
                self.process.hub.prepared(agent.session, command.epoch, address)
                agent.report(NoticeReport())
            case StartWorkers() if command.epoch == agent.epoch and not agent.working:
                assert command.rendezvous_address.endswith(f":{command.epoch}")
                agent.working, agent.phase, agent.unsaved = command.epoch, "starting", []
                (agent.rank,), agent.world = command.ranks, command.world_size
                agent.checking = command.program == "check"
                agent.ready_at = self.now + self.rng.uniform(0, 4)
                agent.step = int(command.resume_checkpoint.rsplit("@", 1)[1]) if command.resume_checkpoint else 0
            case StopAfterCheckpoint() if command.epoch == agent.working:
                agent.stop_after = True

    def _work(self, agent: Agent) -> None:
        """One second of a worker: it starts, steps with all its peers, checkpoints, finishes, or dies with them."""
        if not agent.working or agent.finished:
            return
        if agent.dies_at and self.now >= agent.dies_at:
            self._exit(agent, 75)
            return
        if agent.phase == "starting":
            if self.now >= agent.ready_at:
                agent.phase = "stepping"
            return
        if agent.checking:
            self._check(agent)
            return
        peers = [a for a in self.agents.values() if a.run == agent.run and a.working == agent.working]
        if len(peers) < agent.world:
            agent.dies_at = agent.dies_at or self.now + self.rng.uniform(0.5, 2.0)
            return
        if agent.rank == 0 and all(peer.phase == "stepping" for peer in peers):
            self._step(agent, peers)

    def _check(self, agent: Agent) -> None:
        """A worker that checks its pod; on a sick node matrix products take three times as long."""
        node = self.cluster._pods[PROJECT, agent.pod].node
        speed = 1.0 if node in self.sick else 3.0
        findings = [asdict(Finding(str(node), "gemm", True, f"{speed} TFLOPS", speed))]
        data = {
            "pod": agent.pod,
            "epoch": agent.working,
            "rank": agent.rank,
            "device": "gpu",
            "findings": json.dumps(findings),
        }
        agent.report(EventReport(RunEvent(NODE_CHECKED, "", "", data)))
        self.seen["node checked"] += 1
        self._exit(agent, 0)

    def _step(self, first: Agent, peers: list[Agent]) -> None:
        epoch, name = first.working, f"projects/{PROJECT}/trainingRuns/{first.run}"
        if any(peer.stop_after for peer in peers):
            self._write_journal(first)
            if first.step and not self.checkpoints.commit(name, first.step, epoch):
                return
            for peer in peers:
                self._exit(peer, 82)
            return
        if first.step < STEPS:
            for peer in peers:
                peer.step = first.step + 1 if peer is not first else peer.step
            first.step += 1
            row = StepRow(first.step, epoch, self.clock.now().timestamp(), 1.0 / first.step, first.step, 1.0, 1.0)
            first.report(StepReport(((row, {"loss": row.loss}),)))
            first.unsaved.append(row)
        if first.step % CHECKPOINT_EVERY == 0 or first.step == STEPS:
            self._write_journal(first)
            committed = self.checkpoints.commit(name, first.step, epoch)
            if first.step == STEPS and committed:
                first.report(FinishReport(epoch, STEPS))
                for peer in peers:
                    self._exit(peer, 0)
                    peer.finished = True

    def _write_journal(self, first: Agent) -> None:
        """As rank 0 does before it commits a checkpoint."""
        rows, first.unsaved = first.unsaved, []
        if rows:
            span = JournalSpan(rows[0].step, rows[-1].step, rows[0].epoch)
            self.objects.put(span.key(PROJECT, first.run), json.dumps([asdict(row) for row in rows]).encode())

    def decode_rows(self, data: bytes) -> Rows:
        self.seen["rows recovered"] += 1
        rows = [StepRow(**row) for row in json.loads(data)]
        return tuple((row, {"loss": row.loss}) for row in rows)

    def _exit(self, agent: Agent, code: int) -> None:
        at = self.clock.now().timestamp()
        agent.report(WorkerExit(agent.pod, agent.working, agent.rank, code, at, agent.step))
        agent.working, agent.phase, agent.dies_at, agent.stop_after = 0, "", 0.0, False

    # Faults

    async def fault(self) -> None:
        """Something goes wrong, or a user wants something."""
        kinds = (
            self._kill_worker,
            self._doubt,
            self._kill_pod,
            self._kill_node,
            self._restart_node,
            self._lose_agent,
            self._drain,
            self._break_api,
            self._break_checkpoints,
            self._wish,
            self._sicken,
            self._depose,
            self._break_database,
        )
        await self.rng.choice(kinds)()

    def _node_of(self, agent: Agent) -> str:
        pod = self.cluster._pods.get((PROJECT, agent.pod))
        return str(pod.node) if pod is not None and pod.node else ""

    async def _sicken(self) -> None:
        """A node begins to compute wrongly, as a rule one that a run is on, and the run may notice at once."""
        nodes = [node.name for node in await self.cluster.list_nodes()]
        in_use = [node for agent in self.agents.values() if agent.working and (node := self._node_of(agent))]
        self.sick = {self.rng.choice(in_use or nodes)}
        self.ever_sick |= self.sick
        self.seen["node sick"] += 1
        if self.rng.random() < 0.7:
            self._doubt_run(lambda agent: self._node_of(agent) in self.sick)

    async def _depose(self) -> None:
        """Another replica takes the lease; the old one looks once more and does not know yet."""
        old, self.process = self.process, None
        if old is None:
            return
        self.boot_at = self.now
        await self._live()
        before = self.db_writes
        try:
            await old.look(fresh=True)
        except Aborted as refusal:
            self.seen[f"deposed leader refused {refusal.reason}"] += 1
        except Crashed:
            pass
        assert self.db_writes == before, "a deposed leader committed something"
        old.leadership.alive = False

    async def _kill_worker(self) -> None:
        working = [agent for agent in self.agents.values() if agent.working]
        if working:
            self._exit(self.rng.choice(working), self.rng.choice([-9, -11, 70, -9]))
            self.seen["worker killed"] += 1

    async def _doubt(self) -> None:
        self._doubt_run(lambda agent: True)

    def _doubt_run(self, chosen: Callable[[Agent], bool]) -> None:
        """A result differs when it is computed again: every worker of the run ends, and rank 0 says why."""
        stepping = [a for a in self.agents.values() if a.working and not a.checking and chosen(a)]
        if not stepping:
            return
        victim = self.rng.choice(stepping)
        group = (victim.run, victim.working)
        for agent in self.agents.values():
            if not agent.checking and (agent.run, agent.working) == group:
                if agent.rank == 0:
                    data = {"epoch": agent.working, "rank": 0}
                    agent.report(EventReport(RunEvent(NODE_SUSPECT, "RESULT_DIFFERS", "", data)))
                    self.seen["result doubted"] += 1
                self._exit(agent, 75)

    async def _kill_pod(self) -> None:
        running = [pod for pod in self.pods() if pod.phase is PodPhase.RUNNING]
        if running:
            self.cluster.finish_pod(PROJECT, self.rng.choice(running).name, 137)
            self.seen["pod killed"] += 1

    async def _kill_node(self) -> None:
        """One node, or all but two, as when a rack loses its power."""
        ready = [node.name for node in await self.cluster.list_nodes() if node.ready]
        spared = len(ready) - 1 if self.rng.random() < 0.6 else 2
        for name in self.rng.sample(ready, max(0, len(ready) - max(2, spared))):
            self.cluster.kill_node(name)
            self.seen["node killed"] += 1

    async def _restart_node(self) -> None:
        dead = [node.name for node in await self.cluster.list_nodes() if not node.ready]
        if dead:
            self.cluster.restart_node(self.rng.choice(dead))
            self.seen["node back"] += 1

    async def _lose_agent(self) -> None:
        if self.agents:
            agent = self.rng.choice(list(self.agents.values()))
            agent.away_until = self.now + self.rng.choice([1.0, 4.0, 8.0, 30.0])
            self.seen["agent away"] += 1

    async def _drain(self) -> None:
        nodes = [node.name for node in await self.cluster.list_nodes() if node.ready]
        if nodes and not self.drains:
            at = self.clock.now().timestamp()
            node = self.rng.choice(nodes)
            self.ever_drained.add(node)
            self.drains[node] = DrainView(f"s{self.now}", self.rng.random() < 0.6, "XID_79", at)
            self.seen["drain asked"] += 1

    async def _break_api(self) -> None:
        self.api_down = self.rng.randint(1, 15)
        self.seen["cluster away"] += 1

    async def _break_database(self) -> None:
        self.db_down = self.rng.randint(1, 8)
        self.seen["database away"] += 1

    async def _break_checkpoints(self) -> None:
        self.checkpoints_down = self.rng.randint(1, 15)
        self.seen["checkpoints away"] += 1

    async def _wish(self) -> None:
        run = self.rng.choice(sorted(self.states))
        verb, name = self.rng.choice([(pause, "pause"), (resume, "resume"), (resume, "resume"), (cancel, "cancel")])
        if name == "cancel" and (self.rng.random() < 0.6 or self.cancelled):
            return
        try:
            stored = await self.users.set_desired(PROJECT, run, verb, RunEvent(name.upper(), "USER", name))
        except FailedPrecondition:
            return
        self.seen[name] += 1
        if name == "cancel" and not stored.run.control.state.terminal:
            self.cancelled.add(run)

    async def calm(self) -> None:
        """No more faults; all is whole again but a node that computes wrongly; nobody keeps a run paused."""
        self.quiet = True
        self.drains.clear()
        for node in await self.cluster.list_nodes():
            if not node.ready:
                self.cluster.restart_node(node.name)
        for run in self.states:
            try:
                await self.users.set_desired(PROJECT, run, resume, RunEvent("RESUME", "USER", "resume"))
            except FailedPrecondition:
                continue
        if self.process is not None:
            self.process.leadership.alive = False
            self.process = None
        self.boot_at = self.now
