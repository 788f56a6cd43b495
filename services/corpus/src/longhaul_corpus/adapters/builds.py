"""Moves corpus builds on: from accepted to waiting, through their phases, to their end. Any replica may do any step.

Each step is one transaction that looks at the build again before it changes it, so that two replicas, or one that was
killed in between, never do a step twice.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from longhaul_core.clock import Clock
from longhaul_core.db import Database, ResourceRow, events, queue, resources
from longhaul_core.db.session import Session
from longhaul_core.failpoints import Failpoints
from longhaul_core.logging import get_logger
from prometheus_client import Counter

from longhaul_corpus.adapters.failpoints import Point
from longhaul_corpus.adapters.inputs import Found, Inputs
from longhaul_corpus.adapters.lost_shards import begin_without, leave_out, lost_shards, poison_reason, poisoned
from longhaul_corpus.adapters.products import record_token_set, record_tokenizer
from longhaul_corpus.adapters.records import (
    BUILD,
    PERMANENT,
    Job,
    Status,
    dump_inputs,
    load_spec,
    move,
    object_prefix,
    reason,
    reason_of,
    reason_of_failure,
)
from longhaul_corpus.adapters.runner import Runner
from longhaul_corpus.adapters.upstream import Lost, Pending
from longhaul_corpus.domain.jobs import (
    JobState,
    PhaseProgress,
    build_fraction,
    finished_before,
    remaining_seconds,
    under_way,
)
from longhaul_corpus.domain.phases import Phase, next_phase, phase_items, signature_items

_PROGRESS_SECONDS = 1.0
"""A change of progress alone is written this often at most."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class BuildMetrics:
    """What finished builds are counted by."""

    documents: Counter
    tokens: Counter


class Builds:
    """Steps of corpus builds."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        inputs: Inputs,
        runner: Runner,
        discard: Callable[[str], int],
        metrics: BuildMetrics,
        failpoints: Failpoints,
    ) -> None:
        self._db = db
        self._clock = clock
        self._inputs = inputs
        self._runner = runner
        self._discard_objects = discard
        self._metrics = metrics
        self._failpoints = failpoints

    async def step(self, row: ResourceRow) -> bool:
        """Move one build as far as it goes now; tells whether it changed its state or phase."""
        state = JobState(row.state)
        if state is JobState.QUEUED:
            return await self._change(row, self._begin)
        if state is JobState.WAITING_FOR_INPUTS:
            return await self._wait(row)
        if state is JobState.RUNNING:
            return await self._advance(row)
        if state is JobState.CANCELLING:
            return await self._end(
                row, JobState.CANCELLED, reason("CANCELLED", "Cancelled by a user."), "CANCEL_REQUESTED"
            )
        return False

    def _begin(self, session: Session, row: ResourceRow, now: datetime) -> None:
        queue.enqueue(session, str(Job.of(row)), Phase.PREPARE, [{}])
        status = {**row.status, "start": now.isoformat(), "phases": {}}
        _start_phase(status, Phase.PREPARE, 1, now)
        move(session, row, JobState.WAITING_FOR_INPUTS, status, now, cause="ACCEPTED")

    async def _wait(self, row: ResourceRow) -> bool:
        """Look for the inputs; begin once they are there and the build's own files are checked."""
        job = str(Job.of(row))
        failures = await self._db.read(lambda session: queue.failures(session, job, Phase.PREPARE))
        if failures:
            return await self._end(row, JobState.FAILED, reason_of_failure(failures[0]), "STEP_FAILED")
        counts = await self._db.read(lambda session: queue.counts(session, job, Phase.PREPARE))
        found = await self._inputs.find(row.project, load_spec(row.spec))
        if isinstance(found, Lost):
            why = reason(found.code, found.message, found.action)
            return await self._end(row, JobState.FAILED, why, "INPUT_FAILED")
        if isinstance(found, Pending):
            await self._explain(row, found)
            return False
        if not counts.finished:
            return False
        try:
            keys = await self._inputs.shard_keys(found)
        except PERMANENT as error:
            return await self._end(row, JobState.FAILED, reason_of(error), "INPUT_FAILED")
        return await self._change(row, lambda session, current, now: self._start(session, current, now, found, keys))

    def _start(self, session: Session, row: ResourceRow, now: datetime, found: Found, keys: list[str]) -> None:
        items = signature_items(keys, {shard["key"]: shard["message"] for shard in row.status.get("lost", ())})
        queue.enqueue(session, str(Job.of(row)), Phase.SIGNATURES, items)
        status = {**row.status, "inputs": dump_inputs(found.datasets), "reason": None}
        if found.tokenizer is not None:
            status["tokenizer_input"] = dump_inputs((found.tokenizer,))[0]
        _end_phase(status, Phase.PREPARE, now)
        _start_phase(status, Phase.SIGNATURES, len(items), now)
        move(session, row, JobState.RUNNING, status, now, cause="INPUTS_COMMITTED")

    async def _explain(self, row: ResourceRow, pending: Pending) -> None:
        """Show what a build waits for, where that changed."""
        why = reason(pending.code, pending.message)
        if row.status.get("reason") == why:
            return

        def note(session: Session, current: ResourceRow, now: datetime) -> None:
            resources.update(session, current, status={**current.status, "reason": why}, now=now)

        await self._change(row, note)

    async def _advance(self, row: ResourceRow) -> bool:
        """Begin the next phase, end the build, or write its progress."""
        job, phase = str(Job.of(row)), Phase(row.status["phase"])
        counts = await self._db.read(lambda session: queue.counts(session, job, phase))
        if counts.failed:
            return await self._give_up(row, job, phase)
        if not counts.finished:
            await self._note_progress(row, phase, PhaseProgress(counts.done, counts.total))
            return False
        try:
            finished = await self._change(row, _finish_phase)
            self._failpoints.reach(Point.PHASE_FINISHED)
            if finished and phase is Phase.COMMIT:
                self._count(row)
            return finished
        except PERMANENT as error:
            return await self._end(row, JobState.FAILED, reason_of(error), "STEP_FAILED")

    async def _give_up(self, row: ResourceRow, job: str, phase: Phase) -> bool:
        """Go on without the files that take down each worker, where the build may; else end it."""
        failures = await self._db.read(lambda session: queue.failures(session, job, phase))
        if not poisoned(phase, failures):
            return await self._end(row, JobState.FAILED, reason_of_failure(failures[0]), "STEP_FAILED")
        signed = await self._db.read(lambda session: queue.results(session, job, Phase.SIGNATURES))
        lost = [*row.status.get("lost", ()), *lost_shards(phase, failures, signed)]
        if len(lost) > load_spec(row.spec).maximum_lost_shards:
            return await self._end(row, JobState.FAILED, poison_reason(lost), "STEP_FAILED")
        log.warning("shards set aside", build=row.id, project=row.project, shards=[shard["key"] for shard in lost])
        if phase is Phase.SIGNATURES:
            return await self._change(row, lambda session, now_row, now: leave_out(session, now_row, now, lost))
        if not await self._change(row, lambda session, now_row, now: begin_without(session, now_row, now, lost)):
            return False
        await self._remove_objects(row)
        return True

    def _count(self, row: ResourceRow) -> None:
        counts = row.status["counts"]
        for outcome in ("train", "valid", "duplicate", "contaminated"):
            self._metrics.documents.labels(outcome=outcome).inc(counts[outcome])
        for split in ("train", "valid"):
            self._metrics.tokens.labels(split=split).inc(counts[f"{split}_tokens"])
        log.info("corpus build succeeded", build=row.id, project=row.project, **counts)

    async def _note_progress(self, row: ResourceRow, phase: Phase, counted: PhaseProgress) -> None:
        now = self._clock.now()
        share = under_way(self._runner.fractions(str(Job.of(row)), phase))
        progress = PhaseProgress(counted.done, counted.total, share)
        fraction = build_fraction(finished_before(phase), phase, progress)
        known = row.status.get("fraction", 0.0)
        if (now - row.updated_at).total_seconds() < _PROGRESS_SECONDS or fraction <= known:
            return

        def note(session: Session, current: ResourceRow, moment: datetime) -> None:
            status = {**current.status, "phases": {**current.status["phases"]}, "fraction": fraction}
            status["phases"][phase.value] = {**status["phases"][phase.value], "done": progress.done + share}
            status["eta_seconds"] = remaining_seconds(_elapsed(status, moment), fraction)
            resources.update(session, current, status=status, now=moment)

        await self._change(row, note)

    async def _end(self, row: ResourceRow, state: JobState, why: dict[str, Any], cause: str) -> bool:
        """End a build without a result: its queued work and its objects are removed."""

        def end(session: Session, current: ResourceRow, now: datetime) -> None:
            queue.discard(session, str(Job.of(current)))
            status = {**current.status, "reason": why, "end": now.isoformat(), "eta_seconds": None}
            move(session, current, state, status, now, cause=cause, message=why["message"])

        if not await self._change(row, end):
            return False
        log.info("corpus build ended", build=row.id, project=row.project, state=state, reason=why["code"])
        await self._remove_objects(row)
        return True

    async def _remove_objects(self, row: ResourceRow) -> None:
        """Remove what an attempt at a build wrote."""
        for collection in ("tokensets", "tokenizers"):
            await asyncio.to_thread(self._discard_objects, f"{object_prefix(row, collection)}/")

    async def _change(self, row: ResourceRow, change: Callable[[Session, ResourceRow, datetime], None]) -> bool:
        """Apply a change unless the build changed since it was read; tells whether it was applied."""
        now = self._clock.now()

        def transact(session: Session) -> bool:
            current = resources.get(session, BUILD, row.project, row.id, for_update=True)
            if current.revision != row.revision:
                return False
            change(session, current, now)
            return True

        return await self._db.run(transact)


def _finish_phase(session: Session, row: ResourceRow, now: datetime) -> None:
    """End the finished phase and queue the next one that has any item; after the last the build has succeeded."""
    job, phase = str(Job.of(row)), Phase(row.status["phase"])
    results = {done.value: queue.results(session, job, done) for done in (*finished_before(phase), phase)}
    status: Status = {**row.status, "phases": dict(row.status["phases"])}
    _note_counts(status, phase, results)
    items: list[dict[str, Any]] = []
    following: Phase | None = phase
    while following is not None and not items:
        _end_phase(status, following, now)
        following = next_phase(following)
        if following is not None:
            results.setdefault(following.value, [])
            items = phase_items(following, load_spec(row.spec), results)
            _start_phase(status, following, len(items), now)
    if following is None:
        _succeed(session, row, status, results, now)
        return
    queue.enqueue(session, job, following, items)
    status["fraction"] = build_fraction(finished_before(following), following, PhaseProgress(0, len(items)))
    resources.update(session, row, status=status, now=now)
    events.append(session, row.kind, row.project, row.id, type="PHASE_FINISHED", cause=phase.value.upper(), now=now)


def _succeed(session: Session, row: ResourceRow, status: Status, results: dict[str, Any], now: datetime) -> None:
    record_tokenizer(session, row, results[Phase.TOKENIZER][0], now)
    record_token_set(session, row, results[Phase.COMMIT][0], results[Phase.TOKENIZER][0], now)
    status |= {"fraction": 1.0, "eta_seconds": None, "end": now.isoformat(), "reason": None}
    status["prefix"] = object_prefix(row, "tokensets")
    move(session, row, JobState.SUCCEEDED, status, now, cause="MANIFEST_COMMITTED")
    queue.discard(session, str(Job.of(row)))


def _note_counts(status: Status, phase: Phase, results: dict[str, list[dict[str, Any]]]) -> None:
    """Show the document and token counts as soon as a phase decided them."""
    if phase in (Phase.DEDUPLICATE, Phase.SETTLE):
        found = results[phase][0]
        counts = {name: found[name] for name in ("train", "valid", "duplicate", "contaminated")}
        documents = results[Phase.DEDUPLICATE][0]["documents"]
        failed = results[Phase.DEDUPLICATE][0]["failed"]
        status["counts"] = {**status.get("counts", {}), **counts, "documents": documents, "failed": failed}
    if phase is Phase.LAYOUT:
        tokens = results[phase][0]["tokens"]
        totals = {f"{split}_tokens": sum(tokens[split].values()) for split in ("train", "valid")}
        status["counts"] = {**status.get("counts", {}), **totals}


def _start_phase(status: Status, phase: Phase, total: int, now: datetime) -> None:
    status["phase"] = phase.value
    status["phases"][phase.value] = {"done": 0, "total": total, "start": now.isoformat()}


def _end_phase(status: Status, phase: Phase, now: datetime) -> None:
    known = status["phases"][phase.value]
    status["phases"][phase.value] = {**known, "done": known["total"], "end": now.isoformat()}


def _elapsed(status: Status, now: datetime) -> float:
    """Seconds since the inputs were there."""
    began = status["phases"].get(Phase.SIGNATURES.value, {}).get("start", status["start"])
    return (now - datetime.fromisoformat(began)).total_seconds()
