"""The controller: looks at everything, decides about each run and task, writes, acts; again at each hint and each tick.

Only the replica that holds the lease does it. Every write checks the term in its transaction; every action is
idempotent. Nothing but the database and the cluster is remembered from one look to the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from longhaul_core.clock import Clock
from longhaul_core.db import Database, ResourceRow
from longhaul_core.errors import Aborted, LonghaulError
from longhaul_core.logging import get_logger

from longhaul_training.adapters import project_store, run_store, task_store
from longhaul_training.adapters.cluster_view import ClusterSnapshot
from longhaul_training.adapters.controller_parts import Parts
from longhaul_training.adapters.leadership import is_stale
from longhaul_training.adapters.look import Look
from longhaul_training.adapters.mirror import Mirror, refresh
from longhaul_training.adapters.pod_specs import LABEL_OWNER_UID
from longhaul_training.adapters.run_settling import RunSettling
from longhaul_training.adapters.run_store import StoredRun
from longhaul_training.adapters.task_settling import TaskSettling
from longhaul_training.adapters.task_store import StoredTask
from longhaul_training.domain.actions import DeletePod
from longhaul_training.domain.drains import finished_drains
from longhaul_training.domain.observations import Limits

TICK_SECONDS = 0.5
ORPHAN_GRACE_SECONDS = 5.0
OBSERVE_SECONDS = 1.0

log = get_logger(__name__)


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
        self._run_settling = RunSettling(clock, parts, limits, wakeup.set, self._runs)
        self._task_settling = TaskSettling(clock, parts, wakeup.set, self._tasks)

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
            self._clock.now().timestamp(),
            self._limits.accused,
            namespaces={pod.uid: pod.namespace for pod in cluster.pods},
        )
        runs, tasks = self._live(cluster)
        for stored in runs:
            look.note_run(stored.run)
        for task in tasks:
            look.note_task(task)
        self._parts.token_sets.need(_projects_in_need(runs))
        await self._run_settling.settle(runs, look, term)
        await self._task_settling.settle(tasks, look, term)
        self._acknowledge_drains(look, tasks)
        self._delete_orphans(cluster)
        self._remove_stuck(cluster)
        self._sweep_owners(term)
        self._parts.hub.keep_only(pod for s in runs for pod in s.run.current_pods())
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


def _projects_in_need(runs: Iterable[StoredRun]) -> set[str]:
    """Projects with runs that wait for a token set."""
    return {
        stored.run.spec.token_set.split("/")[1]
        for stored in runs
        if stored.run.control.pinned is None and not stored.run.control.state.terminal
    }
