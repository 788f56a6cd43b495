"""The controller: looks at everything, decides about each run and task, writes, acts; again at each hint and each tick.

Only the replica that holds the lease does it. Every write checks the term in its transaction; every action is
idempotent. Nothing but the database and the cluster is remembered from one look to the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from longhaul_core.clock import Clock
from longhaul_core.db import Database, ResourceRow
from longhaul_core.errors import Aborted, LonghaulError
from longhaul_core.logging import get_logger

from longhaul_training.adapters import project_store, run_store, task_store
from longhaul_training.adapters.cluster_view import ClusterSnapshot, ClusterView
from longhaul_training.adapters.controller_metrics import ControllerMetrics
from longhaul_training.adapters.executor import Executor
from longhaul_training.adapters.hub import AgentHub
from longhaul_training.adapters.leadership import Leadership, is_stale
from longhaul_training.adapters.look import Look
from longhaul_training.adapters.mirror import Mirror, give_way, refresh
from longhaul_training.adapters.node_health import NodeHealth
from longhaul_training.adapters.pod_specs import LABEL_OWNER_UID
from longhaul_training.adapters.run_store import RunStore, StoredRun
from longhaul_training.adapters.task_store import StoredTask, TaskStore
from longhaul_training.adapters.token_sets import TokenSets
from longhaul_training.domain.actions import Act, Change, Decision, DeletePod, RunEvent
from longhaul_training.domain.admission import (
    Queue,
    Usage,
    admission_order,
    base_priority,
    choose_victims,
    is_being_preempted,
    queue_priority,
    quota_problem,
    waits_for_nodes,
)
from longhaul_training.domain.decide import decide
from longhaul_training.domain.drains import finished_drains
from longhaul_training.domain.observations import Limits, World
from longhaul_training.domain.placement import Capacity
from longhaul_training.domain.spares import wanted_spares
from longhaul_training.domain.states import Run, RunState
from longhaul_training.domain.stragglers import StragglerWatch
from longhaul_training.domain.tasks import TaskAct, TaskWorld, decide_task

TICK_SECONDS = 0.5
# A record settles in a few changes; more in one look would be a defect, and the next look goes on.
CHANGES_A_LOOK = 16
# Runs whose records are written in one transaction, which keeps other writers waiting for some 50 ms at most.
RUNS_A_WRITE = 64
ORPHAN_GRACE_SECONDS = 5.0
OBSERVE_SECONDS = 1.0
QUEUED_STATES = (RunState.QUEUED, RunState.WAITING_FOR_INPUTS)

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the controller looks at and acts through."""

    cluster: ClusterView
    hub: AgentHub
    health: NodeHealth
    token_sets: TokenSets
    executor: Executor
    leadership: Leadership
    runs: RunStore
    tasks: TaskStore
    metrics: ControllerMetrics


@dataclass(frozen=True, slots=True)
class _Decided:
    """What a look decided about one run: its record as it was read, how it changes, and what to do then."""

    before: StoredRun
    change: Change | None
    decision: Decision


class Controller:
    """Reconciles runs and tasks while this replica leads."""

    def __init__(self, db: Database, clock: Clock, parts: Parts, limits: Limits, wakeup: asyncio.Event) -> None:
        self._db = db
        self._clock = clock
        self._parts = parts
        self._limits = limits
        self._wakeup = wakeup
        self._swept_term = 0
        self._observed_at = 0.0
        self._runs: Mirror[StoredRun] = Mirror(run_store.KIND, run_store.load)
        self._tasks: Mirror[StoredTask] = Mirror(task_store.KIND, task_store.load)
        self._projects: Mirror[ResourceRow] = Mirror(project_store.KIND, lambda row: row)
        self._stragglers = StragglerWatch()

    async def run(self, stop: asyncio.Event) -> None:
        """Looks at each hint and each tick until `stop` is set."""
        led_term = 0
        while not stop.is_set():
            term = self._parts.leadership.term
            if term is not None:
                if term.number != led_term:
                    led_term = term.number
                    self._forget()
                await self._look_once(term.number)
            self._wakeup.clear()
            try:
                await asyncio.wait_for(self._wakeup.wait(), TICK_SECONDS)
            except TimeoutError:
                continue
        await self._parts.token_sets.close()
        await self._parts.executor.close()

    async def _look_once(self, term: int) -> None:
        try:
            with self._parts.metrics.looking():
                await self.look(term)
        except Aborted as error:
            if not is_stale(error):
                raise
            log.info("look ended by newer term", term=term)
        except LonghaulError as error:
            log.warning("look failed", reason=error.reason, error=str(error))

    async def look(self, term: int) -> None:
        """One pass over all runs and tasks."""
        self._parts.executor.check()
        await refresh(self._db, (self._projects, self._runs, self._tasks))
        cluster = await self._parts.cluster.snapshot()
        look = Look(
            cluster,
            cluster.node_views(self._parts.health.drains),
            {row.id: row for row in self._projects.items.values()},
            self._parts.executor.claims(cluster.listed_at),
            namespaces={pod.uid: pod.namespace for pod in cluster.pods},
        )
        runs, tasks = self._live(cluster)
        for stored in runs:
            look.note_run(stored.run)
        for task in tasks:
            look.note_task(task)
        self._parts.token_sets.need(_projects_in_need(runs))
        await self._settle_runs(runs, look, term)
        for task in tasks:
            await self._settle_task(task, look, term)
        self._acknowledge_drains(look, tasks)
        self._delete_orphans(cluster)
        self._remove_stuck(cluster)
        self._sweep_owners(term)
        self._parts.hub.keep_only(pod for s in runs for pod in s.run.current_pods())
        self._stragglers.keep_only(s.run.uid for s in runs)
        self._observe()

    def _observe(self) -> None:
        """Sets the gauges, once a second at most: with many runs that costs as much as deciding."""
        now = self._clock.now().timestamp()
        if not 0.0 <= now - self._observed_at < OBSERVE_SECONDS:
            self._observed_at = now
            self._parts.metrics.observe(self._runs.items.values(), self._parts.hub.connected, now)

    def _forget(self) -> None:
        """A new term begins with nothing remembered."""
        for mirror in (self._runs, self._tasks, self._projects):
            mirror.clear()

    def _live(self, cluster: ClusterSnapshot) -> tuple[list[StoredRun], list[StoredTask]]:
        """Runs and tasks that need a look: those not terminal, those with pods, failed ones that are to be retried."""
        runs, tasks = [], []
        for uid, stored in self._runs.items.items():
            control, desired = stored.run.control, stored.run.desired
            if not control.state.terminal or uid in cluster.by_owner or desired.attempt > control.attempt:
                runs.append(stored)
        for uid, task in self._tasks.items.items():
            if not task.task.control.state.terminal or uid in cluster.by_owner:
                tasks.append(task)
        tasks.sort(key=lambda t: (t.task.created_at, t.task.name))
        return runs, tasks

    async def _settle_runs(self, runs: list[StoredRun], look: Look, term: int) -> None:
        """Runs that hold nodes first, since they may need a spare; then the queue in its order."""
        limits = {project: project_store.limits_of(row) for project, row in look.projects.items()}
        by_uid = {stored.run.uid: stored for stored in runs}
        usage, queue, queued, holding = Usage(limits), Queue(), [], []
        for stored in runs:
            if stored.run.control.state in QUEUED_STATES:
                queued.append(stored.run)
            else:
                holding.append(stored)
                if stored.run.control.state.holds_gpus:
                    usage.add(stored.run)
        await self._preempt(queued, holding, usage, look)
        holding.sort(key=lambda s: (s.run.created_at, s.run.name))
        for first in range(0, len(holding), RUNS_A_WRITE):
            batch = []
            for number, stored in enumerate(holding[first : first + RUNS_A_WRITE]):
                await give_way(number)
                batch.append(self._decide(stored, look, "", 0))
            await self._settle(batch, look, term)
        now = self._clock.now().timestamp()
        for number, run in enumerate(admission_order(queued, usage, now)):
            await give_way(number)
            problem = queue.problem(run) or quota_problem(run, usage)
            decided = self._decide(by_uid[run.uid], look, problem, queue_priority(run, limits, now))
            [after] = await self._settle([decided], look, term)
            if after.run.control.state.holds_gpus:
                usage.add(after.run)
            if not problem:
                queue.note(after.run)

    async def _preempt(self, queued: list[Run], holding: list[StoredRun], usage: Usage, look: Look) -> None:
        """Finds who makes room for the first run of the queue that waits for nodes and whose quota allows it.

        One at a time: the next one is looked at when the first has its nodes.
        """
        waiting = [run for run in queued if waits_for_nodes(run) and not quota_problem(run, usage)]
        if not waiting:
            return
        first = next(iter(admission_order(waiting, usage, self._clock.now().timestamp())))
        running = [stored.run for stored in holding if stored.run.control.state.holds_gpus]
        leaving = [run for run in running if is_being_preempted(run)]
        victims = choose_victims(first, base_priority(first, usage.limits), running, look.capacity(first.spec))
        # Those that are writing their checkpoint already go on doing so; others are asked only if these don't suffice.
        for victim in leaving or victims:
            look.preempted[victim.uid] = first.name

    def _decide(self, stored: StoredRun, look: Look, problem: str, priority: int) -> _Decided:
        """Decides until the record stands. A run that joins the queue waits for the next look, in its order."""
        seen, events = stored, list[RunEvent]()
        decision: Decision = Act()
        for _ in range(CHANGES_A_LOOK):
            decision = decide(seen.run, self._world(seen, look, problem, priority))
            if isinstance(decision, Act):
                break
            was = seen.run.control.state
            events += decision.events
            seen = replace(seen, run=replace(seen.run, control=decision.control))
            look.note_run(seen.run)
            if seen.run.control.state in QUEUED_STATES and was not in QUEUED_STATES:
                break
        if seen is stored:
            return _Decided(stored, None, decision)
        look.note_run(seen.run, until_written=stored.run)
        return _Decided(stored, Change(seen.run.control, tuple(events)), decision)

    async def _settle(self, decided: Sequence[_Decided], look: Look, term: int) -> list[StoredRun]:
        """Writes all changed records in one transaction, each once with all its events, and only then acts."""
        changes = [(one.before, one.change) for one in decided if one.change is not None]
        written = iter(await self._parts.runs.commit_all(changes, term) if changes else ())
        after = []
        for one in decided:
            stored: StoredRun | None = one.before
            if one.change is not None:
                stored = self._note_written(one.before, one.change, next(written), look)
            after.append(stored or one.before)
            if stored is None:
                continue
            if isinstance(one.decision, Act):
                for action in one.decision.actions:
                    self._parts.executor.for_run(stored, action, look.namespace(stored.run.project, action))
            else:
                self._wakeup.set()
        return after

    def _note_written(
        self, before: StoredRun, change: Change, written: StoredRun | None, look: Look
    ) -> StoredRun | None:
        """Takes a record that was written; None when it had moved meanwhile, so that the next look decides anew."""
        if written is None:
            self._wakeup.set()
            look.note_run(before.run)
            return None
        for event in change.events:
            log.info("run event", run=before.run.name, type=event.type, cause=event.cause, message=event.message)
        self._parts.metrics.count_change(before.run, change)
        stored = self._runs.put(written.row)
        look.note_run(stored.run)
        if stored.run.control.state.terminal:
            self._parts.executor.release_owner(stored.run, look.namespace(stored.run.project))
        return stored

    def _world(self, stored: StoredRun, look: Look, problem: str, priority: int) -> World:
        run = stored.run
        agents = {pod: self._parts.hub.view(pod) for pod in run.current_pods()}
        return World(
            now=self._clock.now().timestamp(),
            pods=look.cluster.pods_of(run.uid),
            nodes=look.cluster.views_for(run.spec, look.nodes),
            agents=agents,
            training=stored.reports,
            inputs=self._parts.token_sets.view(run.spec.token_set),
            capacity=look.capacity(run.spec) if _may_place(run) else Capacity(),
            queue_problem=problem,
            refusals=self._parts.executor.refusals,
            blind=look.cluster.blind,
            preempted_by=look.preempted.get(run.uid, ""),
            admission_priority=priority,
            straggler=self._stragglers.observe(run, agents, self._clock.monotonic(), self._limits.straggler_score),
            limits=self._limits,
        )

    async def _settle_task(self, stored: StoredTask, look: Look, term: int) -> None:
        for _ in range(CHANGES_A_LOOK):
            task = stored.task
            world = TaskWorld(
                now=self._clock.now().timestamp(),
                pods=look.cluster.pods_of(task.uid),
                nodes=look.nodes,
                capacity=look.capacity(),
                free=look.free(),
                refusals=self._parts.executor.refusals,
            )
            decision = decide_task(task, world)
            if isinstance(decision, TaskAct):
                for action in decision.actions:
                    self._parts.executor.for_task(stored, action, look.namespace(task.project, action))
                return
            try:
                written = await self._parts.tasks.commit(stored, decision.control, decision.events, term)
            except Aborted as error:
                if is_stale(error):
                    raise
                self._wakeup.set()
                return
            stored = self._tasks.put(written.row)
            look.note_task(stored)

    def _acknowledge_drains(self, look: Look, tasks: Iterable[StoredTask]) -> None:
        exempt = [t.task.pod_name for t in tasks if t.task.spec.node]
        for action in finished_drains(look.nodes, look.claims(), exempt).acknowledgements:
            self._parts.executor.acknowledge(action)

    def _delete_orphans(self, cluster: ClusterSnapshot) -> None:
        """Pods of ours whose run or task is not in the database."""
        known = self._runs.items.keys() | self._tasks.items.keys()
        for pod in cluster.pods:
            if pod.labels.get(LABEL_OWNER_UID, "") not in known and not pod.deletion_requested:
                action = DeletePod(pod.name, pod.uid, ORPHAN_GRACE_SECONDS)
                self._parts.executor.delete_orphan(pod.namespace, action)

    def _remove_stuck(self, cluster: ClusterSnapshot) -> None:
        """Pods that were deleted on nodes which are dead for certain."""
        for pod, death in cluster.stuck(self._clock.now(), self._parts.hub.silence):
            self._parts.executor.force_delete(pod, death)

    def _sweep_owners(self, term: int) -> None:
        """Once a term: an earlier leader may have died between the end of a run and the removal of its owner."""
        if self._swept_term != term:
            self._swept_term = term
            live = [uid for uid, run in self._runs.items.items() if not run.run.control.state.terminal]
            self._parts.executor.sweep_owners(live)


def _may_place(run: Run) -> bool:
    """Whether a decision about the run may ask for nodes."""
    lacks_spares = sum(1 for slot in run.spares if slot.node) < wanted_spares(run)
    return run.control.state is RunState.QUEUED or lacks_spares or any(not slot.node for slot in run.members)


def _projects_in_need(runs: Iterable[StoredRun]) -> set[str]:
    """Projects with runs that wait for a token set."""
    return {
        stored.run.spec.token_set.split("/")[1]
        for stored in runs
        if stored.run.control.pinned is None and not stored.run.control.state.terminal
    }
