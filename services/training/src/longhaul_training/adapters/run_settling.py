"""Brings runs forward in one look: decides about each until its record stands, writes, and only then acts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from longhaul_core.clock import Clock
from longhaul_core.logging import get_logger

from longhaul_training.adapters import project_store
from longhaul_training.adapters.controller_parts import CHANGES_A_LOOK, Parts
from longhaul_training.adapters.look import Look
from longhaul_training.adapters.mirror import Mirror, give_way
from longhaul_training.adapters.run_store import StoredRun
from longhaul_training.domain.actions import Act, Change, Decision, RunEvent
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
from longhaul_training.domain.observations import Limits, World
from longhaul_training.domain.placement import Capacity
from longhaul_training.domain.spares import wanted_spares
from longhaul_training.domain.states import Run, RunState
from longhaul_training.domain.stragglers import StragglerWatch

RUNS_A_WRITE = 64
"""Runs whose records are written in one transaction, which keeps other writers waiting for some 50 ms at most."""
QUEUED_STATES = (RunState.QUEUED, RunState.WAITING_FOR_INPUTS)

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Decided:
    """What a look decided about one run: its record as it was read, how it changes, and what to do then."""

    before: StoredRun
    change: Change | None
    decision: Decision


class RunSettling:
    """Decides about runs, writes their records and starts what follows from them."""

    def __init__(
        self, clock: Clock, parts: Parts, limits: Limits, wake: Callable[[], None], mirror: Mirror[StoredRun]
    ) -> None:
        self._clock = clock
        self._parts = parts
        self._limits = limits
        self._wake = wake
        self._mirror = mirror
        self._stragglers = StragglerWatch()

    async def settle(self, runs: list[StoredRun], look: Look, term: int) -> None:
        """Brings all runs forward: first those that hold nodes, as they may need a spare; then the queue in order."""
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
            await self._write(batch, look, term)
        now = self._clock.now().timestamp()
        for number, run in enumerate(admission_order(queued, usage, now)):
            await give_way(number)
            problem = queue.problem(run) or quota_problem(run, usage)
            decided = self._decide(by_uid[run.uid], look, problem, queue_priority(run, limits, now))
            [after] = await self._write([decided], look, term)
            if after.run.control.state.holds_gpus:
                usage.add(after.run)
            if not problem:
                queue.note(after.run)
        self._stragglers.keep_only(by_uid)

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

    async def _write(self, decided: Sequence[_Decided], look: Look, term: int) -> list[StoredRun]:
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
                self._wake()
        return after

    def _note_written(
        self, before: StoredRun, change: Change, written: StoredRun | None, look: Look
    ) -> StoredRun | None:
        """Takes a record that was written; None when it had moved meanwhile, so that the next look decides anew."""
        if written is None:
            self._wake()
            look.note_run(before.run)
            return None
        for event in change.events:
            log.info("run event", run=before.run.name, type=event.type, cause=event.cause, message=event.message)
        self._parts.metrics.count_change(before.run, change)
        stored = self._mirror.put(written.row)
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


def _may_place(run: Run) -> bool:
    """Whether a decision about the run may ask for nodes."""
    lacks_spares = sum(1 for slot in run.spares if slot.node) < wanted_spares(run)
    return run.control.state is RunState.QUEUED or lacks_spares or any(not slot.node for slot in run.members)
