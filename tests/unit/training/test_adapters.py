"""Adapters with state of their own: metric rows, agents' sessions, attention, leadership, identity, mirror."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from longhaul.training.v1 import agent_pb2, training_run_pb2
from longhaul_core.clock import ManualClock
from longhaul_core.db import Database, events
from longhaul_core.db import leases as lease_table
from longhaul_core.errors import Aborted
from longhaul_core.metric_journal import JournalSpan, journal_prefix
from longhaul_core.objects import ObjectStore, open_store
from longhaul_training.adapters import metric_rows, rank_logs, run_store
from longhaul_training.adapters.attention import Attention
from longhaul_training.adapters.commands import Acknowledge, Redirect, Shutdown
from longhaul_training.adapters.hub import AgentHub, AgentSession
from longhaul_training.adapters.leadership import LEASE_NAME, Leadership, check_term
from longhaul_training.adapters.metric_journal import MetricJournal
from longhaul_training.adapters.metric_rows import KEPT_ROWS, SEGMENT_ROWS, MetricRow
from longhaul_training.adapters.mirror import Mirror, refresh
from longhaul_training.adapters.pod_identity import load_identity
from longhaul_training.adapters.project_store import ProjectStore
from longhaul_training.adapters.report_store import CheckpointReport, FinishReport, ReportStore, StepReport
from longhaul_training.adapters.run_store import RunStore
from longhaul_training.convert.agents import rows_of
from longhaul_training.domain.actions import Change, PrepareEpoch, RunEvent
from longhaul_training.domain.observations import WorkerView
from longhaul_training.domain.reports import StepRow
from longhaul_training.domain.states import RunState

AT = datetime(2026, 1, 1, tzinfo=UTC)
SPEC: dict[str, Any] = {
    "trainer_config": {"steps": 5},
    "token_set": "projects/p/tokenSets/t",
    "resources": {"nodes": 1, "gpus_per_node": 1, "spares": 0, "priority": 0, "pool": "", "image": ""},
}


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database.open(f"sqlite:///{tmp_path / 'db.sqlite3'}")
    await ProjectStore(opened, ManualClock(AT)).create("p", {}, "")
    yield opened
    opened.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(AT)


def row(step: int, epoch: int = 1, **values: float) -> tuple[StepRow, dict[str, Any]]:
    loss = values.get("loss", 1.0 / step)
    return StepRow(step, epoch, AT.timestamp() + step, loss, step, 1.0, 0.1), {"loss": loss}


async def leader(db: Database) -> int:
    lease = await db.run(lambda session: lease_table.acquire(session, LEASE_NAME, "me", "", 1000.0))
    assert lease is not None
    return lease.term


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return open_store(f"file://{tmp_path / 'objects'}")


@pytest.fixture
async def reports(db: Database, clock: ManualClock, objects: ObjectStore) -> ReportStore:
    await RunStore(db, clock).create("p", "r", SPEC, "f", "")
    return ReportStore(db, objects, clock, MetricJournal(objects, rows_of))


async def history(
    reports: ReportStore, db: Database, clock: ManualClock, after: int = -1, limit: int = 100_000
) -> list[MetricRow]:
    uid = (await RunStore(db, clock).get("p", "r")).run.uid
    return await reports.history("p", "r", uid, after, limit)


async def test_report_sent_twice_counts_once(reports: ReportStore, db: Database, clock: ManualClock) -> None:
    term = await leader(db)
    batch = [(1, StepReport((row(1), row(2)))), (2, FinishReport(1, 2))]
    runs = RunStore(db, clock)
    await reports.apply("p", "r", {"pod": batch}, term)
    first = await runs.get("p", "r")
    await reports.apply("p", "r", {"pod": batch}, term)
    assert (await runs.get("p", "r")).row.revision == first.row.revision
    await reports.apply("p", "r", {"other-pod": [(1, StepReport((row(3),)))]}, term)
    assert (await runs.get("p", "r")).reports.step == 3
    assert [r.step for r in await history(reports, db, clock)] == [1, 2, 3]


async def test_report_under_an_old_term_is_refused(reports: ReportStore, db: Database) -> None:
    term = await leader(db)
    with pytest.raises(Aborted) as caught:
        await reports.apply("p", "r", {"pod": [(1, StepReport((row(1),)))]}, term - 1)
    assert caught.value.reason == "STALE_TERM"


async def test_replayed_step_shows_its_last_value_and_says_so(
    reports: ReportStore, db: Database, clock: ManualClock
) -> None:
    term = await leader(db)
    await reports.apply("p", "r", {"a": [(1, StepReport((row(1), row(2), row(3))))]}, term)
    await reports.apply("p", "r", {"b": [(1, StepReport((row(2, epoch=2, loss=9.0),)))]}, term)
    await reports.apply("p", "r", {"a": [(2, StepReport((row(2, epoch=1, loss=7.0),)))]}, term)
    found = {r.step: (r.epoch, r.values["loss"], r.replayed) for r in await history(reports, db, clock)}
    assert found == {1: (1, 1.0, False), 2: (2, 9.0, True), 3: (1, 1.0 / 3, False)}


async def test_rows_after_a_rewind_replace_those_of_the_line_that_was_left(
    reports: ReportStore, objects: ObjectStore, db: Database, clock: ManualClock
) -> None:
    """Within one epoch: reported rows, then rows that only the journal has, then the reports of those, late."""
    term = await leader(db)
    await reports.apply("p", "r", {"a": [(1, StepReport(tuple(row(s) for s in range(1, 7))))]}, term)
    again = [training_run_pb2.StepMetrics(step=s, epoch=1, loss=50.0 + s, position=s + 4) for s in (4, 5)]
    data = agent_pb2.StepMetricsBatch(rows=again).SerializeToString()
    objects.put(JournalSpan(8, 9, 1).key("p", "r"), data)
    await reports.recover("p", "r", 9, term)
    found = {r.step: r.values["loss"] for r in await history(reports, db, clock)}
    assert found == {1: 1.0, 2: 0.5, 3: 1 / 3, 4: 54.0, 5: 55.0, 6: 1 / 6}
    uid = (await RunStore(db, clock).get("p", "r")).run.uid
    streamed = await reports.stream("p", "r", uid, 6, 100)
    assert [(r.step, r.replayed) for r in streamed] == [(4, True), (5, True)]
    await reports.apply("p", "r", {"a": [(2, StepReport(rows_of(data)))]}, term)
    late = (await RunStore(db, clock).get("p", "r")).reports
    assert (late.step, late.position) == (5, 9)
    assert len(await reports.stream("p", "r", uid, 6, 100)) == 2


def put_journal(objects: ObjectStore, first: int, last: int, epoch: int) -> str:
    rows = [training_run_pb2.StepMetrics(step=s, epoch=epoch, loss=1.0 / s + epoch) for s in range(first, last + 1)]
    key = JournalSpan(first, last, epoch).key("p", "r")
    objects.put(key, agent_pb2.StepMetricsBatch(rows=rows).SerializeToString())
    return key


async def test_rows_that_only_the_journal_has_are_recovered_up_to_the_checkpoint(
    reports: ReportStore, objects: ObjectStore, db: Database, clock: ManualClock
) -> None:
    term = await leader(db)
    await reports.apply("p", "r", {"a": [(1, StepReport((row(1), row(2), row(3))))]}, term)
    put_journal(objects, 1, 5, epoch=1)
    put_journal(objects, 6, 10, epoch=1)
    put_journal(objects, 5, 8, epoch=2)
    await reports.recover("p", "r", 7, term)
    found = {r.step: (r.epoch, r.values["loss"], r.replayed) for r in await history(reports, db, clock)}
    assert list(found) == [1, 2, 3, 4, 5, 6, 7]
    assert found[3] == (1, 1.0 / 3, False)
    assert found[4] == (1, 1.25, False)
    assert found[5] == (2, 2.2, False)
    await reports.apply("p", "r", {"a": [(2, StepReport((row(7, epoch=2, loss=9.0),)))]}, term)
    late = (await RunStore(db, clock).get("p", "r")).reports
    assert (late.step, late.step_epoch, late.replay_seconds) == (7, 2, 0.0)


async def test_recovery_follows_the_line_of_a_rollback(
    reports: ReportStore, objects: ObjectStore, db: Database, clock: ManualClock
) -> None:
    term = await leader(db)
    await reports.apply("p", "r", {"a": [(1, StepReport(tuple(row(s) for s in range(1, 11))))]}, term)
    put_journal(objects, 6, 8, epoch=2)
    await reports.recover("p", "r", 8, term)
    found = {r.step: r.epoch for r in await history(reports, db, clock)}
    assert found == {step: 2 if 6 <= step <= 8 else 1 for step in range(1, 11)}


async def test_journal_that_is_damaged_is_told_and_does_not_stop_the_run(
    reports: ReportStore, objects: ObjectStore, db: Database, clock: ManualClock
) -> None:
    term = await leader(db)
    put_journal(objects, 1, 2, epoch=1)
    objects.put(broken := JournalSpan(3, 4, 1).key("p", "r"), b"\xff\xff\xff")
    await reports.recover("p", "r", 4, term)
    assert [r.step for r in await history(reports, db, clock)] == [1, 2]
    told = await db.read(lambda session: events.list_events(session, run_store.KIND, "p", "r", 0, 100))
    assert [(e.type, e.data["key"]) for e in told if e.type == "METRICS_LOST"] == [("METRICS_LOST", broken)]


async def test_journal_is_cleared_once_a_checkpoint_is_reported(
    reports: ReportStore, objects: ObjectStore, db: Database
) -> None:
    term = await leader(db)
    put_journal(objects, 1, 5, epoch=1)
    left = put_journal(objects, 6, 10, epoch=1)
    steps = StepReport(tuple(row(s) for s in range(1, 7)))
    await reports.apply("p", "r", {"a": [(1, steps), (2, CheckpointReport("c", 5, 1))]}, term)
    assert [info.key for info in objects.list(journal_prefix("p", "r"))] == [left]


async def test_old_rows_move_to_segments_and_read_the_same(
    reports: ReportStore, db: Database, clock: ManualClock
) -> None:
    term = await leader(db)
    total = KEPT_ROWS + SEGMENT_ROWS
    await reports.apply("p", "r", {"a": [(1, StepReport(tuple(row(s) for s in range(1, total + 1))))]}, term)
    before = await history(reports, db, clock)
    uid = (await RunStore(db, clock).get("p", "r")).run.uid
    assert await reports.archive("p", "r", uid)
    assert not await reports.archive("p", "r", uid)
    kept = await db.read(lambda session: metric_rows.rows_after_step(session, uid, -1, 100_000))
    assert len(kept) == KEPT_ROWS
    assert await history(reports, db, clock) == before
    await reports.apply("p", "r", {"b": [(1, StepReport((row(7, epoch=2, loss=5.0),)))]}, term)
    again = await history(reports, db, clock, after=5, limit=3)
    assert [(r.step, r.epoch) for r in again] == [(6, 1), (7, 2), (8, 1)]
    streamed, after = [], 0
    while part := await reports.stream("p", "r", uid, after, 1000):
        streamed += [(r.step, r.epoch) for r in part]
        after = part[-1].sequence
    assert streamed == [*((step, 1) for step in range(1, total + 1)), (7, 2)]


async def test_record_that_moved_is_not_overwritten(db: Database, clock: ManualClock) -> None:
    runs, term = RunStore(db, clock), await leader(db)
    stored = await runs.create("p", "r", SPEC, "f", "")
    moved = await runs.commit(stored, replace(stored.run.control, state=RunState.PAUSED), (), term)
    with pytest.raises(Aborted) as caught:
        await runs.commit(stored, replace(stored.run.control, state=RunState.ADMITTED), (), term)
    assert caught.value.reason == "CONTROL_CHANGED"
    assert moved.row.state == "PAUSED"


async def test_records_written_together_skip_the_one_that_moved_and_none_under_an_old_term(
    db: Database, clock: ManualClock
) -> None:
    runs, term = RunStore(db, clock), await leader(db)
    stored = [await runs.create("p", f"r{number}", SPEC, f"f{number}", "") for number in range(3)]
    await runs.commit(stored[1], replace(stored[1].run.control, state=RunState.PAUSED), (), term)
    event = RunEvent("STATE_CHANGED", "C", "m")
    changes = [(s, Change(replace(s.run.control, state=RunState.ADMITTED), (event,))) for s in stored]
    with pytest.raises(Aborted, match="term"):
        await runs.commit_all(changes, term - 1)
    written = await runs.commit_all(changes, term)
    assert [w.row.state if w else None for w in written] == ["ADMITTED", None, "ADMITTED"]
    states = [(await runs.get("p", s.run.id)).run.control.state for s in stored]
    assert states == [RunState.ADMITTED, RunState.PAUSED, RunState.ADMITTED]


async def test_mirror_sees_changes_of_others_and_keeps_its_own_newer_ones(db: Database, clock: ManualClock) -> None:
    runs, term = RunStore(db, clock), await leader(db)
    mirror = Mirror(run_store.KIND, run_store.load)
    stored = await runs.create("p", "r", SPEC, "f", "")
    await refresh(db, [mirror])
    written = await runs.commit(stored, replace(stored.run.control, epoch=4), (), term)
    mirror.put(written.row)
    mirror.put(stored.row)
    assert mirror.items[stored.run.uid].run.control.epoch == 4
    await refresh(db, [mirror])
    assert mirror.items[stored.run.uid].run.control.epoch == 4


async def test_identity_is_one_for_all_replicas_and_binds_the_pod(db: Database) -> None:
    first, second = await load_identity(db, AT), await load_identity(db, AT)
    token = first.issue("projects/p/trainingRuns/r", "uid", 0, 1)
    assert second.accepts(token, "uid", 0, 1)
    assert not any(second.accepts(token, *other) for other in (("uid", 0, 2), ("uid", 1, 1), ("di", 0, 1)))


def test_attention_takes_out_stalls_and_only_those(clock: ManualClock) -> None:
    attention = Attention(clock)
    for _ in range(4):
        clock.advance(0.25)
        attention.beat()
    assert attention.seconds() == pytest.approx(1.0)
    clock.advance(30.0)
    assert attention.seconds() == pytest.approx(1.25)
    attention.beat()
    clock.advance(0.25)
    assert attention.seconds() == pytest.approx(1.5)


@pytest.fixture
def hub(clock: ManualClock) -> AgentHub:
    class Watching(Attention):
        def seconds(self) -> float:
            return clock.monotonic()

    return AgentHub(Watching(clock), 10.0, lambda: None)


def test_agent_never_heard_of_is_given_a_reconnect_period(hub: AgentHub, clock: ManualClock) -> None:
    assert hub.view("pod").silent_seconds == 0.0
    clock.advance(10.0)
    assert hub.view("pod").silent_seconds == 0.0
    clock.advance(3.0)
    assert hub.view("pod").silent_seconds == 3.0
    assert not hub.view("pod").connected


def test_newer_stream_of_a_pod_replaces_the_older(hub: AgentHub, clock: ManualClock) -> None:
    old, new = (AgentSession("pod", "p", "r", 1) for _ in range(2))
    hub.attach(old, 1, (), ())
    hub.attach(new, 2, (WorkerView(0, "stepping", 5),), ())
    assert old.outgoing.get_nowait() is None
    hub.heard(old, 1, ())
    hub.detach(old)
    view = hub.view("pod")
    assert (view.connected, view.epoch, len(view.workers)) == (True, 2, 1)
    hub.detach(new)
    clock.advance(2.0)
    assert (hub.view("pod").connected, hub.view("pod").closed_seconds) == (False, 2.0)


def test_prepared_epoch_forgets_the_workers_of_the_older_one(hub: AgentHub) -> None:
    session = AgentSession("pod", "p", "r", 1)
    hub.attach(session, 1, (WorkerView(0, "stepping", 5),), ())
    hub.prepared(session, 2, "h:1")
    view = hub.view("pod")
    assert (view.epoch, view.ready_epoch, view.workers, view.rendezvous_address) == (2, 2, (), "h:1")


def test_same_command_is_not_repeated_at_once(hub: AgentHub, clock: ManualClock) -> None:
    session = AgentSession("pod", "p", "r", 1)
    hub.attach(session, 0, (), ())
    for _ in range(3):
        hub.send("pod", PrepareEpoch("pod", 1, True))
    hub.send("pod", PrepareEpoch("pod", 2, True))
    clock.advance(6.0)
    hub.send("pod", PrepareEpoch("pod", 2, True))
    hub.dismiss("pod", "over")
    hub.send("unknown", Acknowledge(1))
    sent = [session.outgoing.get_nowait() for _ in range(session.outgoing.qsize())]
    assert [getattr(command, "epoch", 0) for command in sent] == [1, 2, 2, 0]
    assert sent[-1] == Shutdown("over")


def test_lost_leadership_sends_the_agents_away(hub: AgentHub) -> None:
    session = AgentSession("pod", "p", "r", 1)
    hub.attach(session, 1, (), ())
    hub.redirect_all("there:1")
    assert session.outgoing.get_nowait() == Redirect("there:1")
    assert session.outgoing.get_nowait() is None
    assert hub.connected == 0


class Campaign:
    """A replica that campaigns until it is stopped."""

    def __init__(self, db: Database, clock: ManualClock, address: str) -> None:
        self.leadership = Leadership(db, clock, address, life_seconds=0.4)
        self.changed, self._stop = asyncio.Event(), asyncio.Event()
        self.leadership.on_change(self.changed.set)
        self._task = asyncio.create_task(self.leadership.run(self._stop))

    async def wait(self) -> None:
        async with asyncio.timeout(60):
            await self.changed.wait()

    async def stop(self) -> None:
        self._stop.set()
        await self._task


async def test_one_replica_leads_and_the_next_takes_over_with_a_higher_term(db: Database, clock: ManualClock) -> None:
    first = Campaign(db, clock, "a:1")
    await first.wait()
    old = first.leadership.term
    second = Campaign(db, clock, "b:1")
    assert await second.leadership.leader_address() == "a:1"
    assert second.leadership.term is None
    await first.stop()
    assert first.leadership.term is None
    await second.wait()
    assert second.leadership.term.number == old.number + 1
    with pytest.raises(Aborted):
        await db.run(lambda session: check_term(session, old.number))
    await second.stop()
    assert await second.leadership.leader_address() == ""


async def test_holder_stops_on_its_own_clock_before_its_lease_ends(db: Database, clock: ManualClock) -> None:
    leadership = Leadership(db, clock, "a:1", life_seconds=1000.0)
    won, stop = asyncio.Event(), asyncio.Event()
    leadership.on_change(won.set)
    campaign = asyncio.create_task(leadership.run(stop))
    async with asyncio.timeout(60):
        await won.wait()
    clock.advance(799.0)
    assert leadership.term is not None
    clock.advance(1.0)
    assert leadership.term is None
    stop.set()
    await campaign


def test_logs_of_ranks_are_read_in_order_and_by_tail(tmp_path: Path) -> None:
    objects = open_store(f"file://{tmp_path}")
    prefix = "projects/p/runs/r/logs"
    for rank, epoch, pod, number, text in (
        (0, 2, "run-r-0-2", 0, "d\n"),
        (0, 1, "run-r-0-1", 1, "b\nc\n"),
        (0, 1, "run-r-0-1", 0, "a\n"),
        (1, 1, "run-r-1-1", 0, "x\n"),
    ):
        objects.put(f"{prefix}/rank-{rank:05d}/e{epoch:06d}-{pod}-{number:06d}.log", text.encode())
    chunks = rank_logs.list_chunks(objects, "p", "r", 0)
    assert sorted(line.text for line in rank_logs.read_lines(objects, chunks)) == ["a", "b", "c", "d"]
    assert [line.text for line in rank_logs.tail(objects, chunks, 1)] == ["d"]
    assert {chunk.rank for chunk in rank_logs.list_chunks(objects, "p", "r", None)} == {0, 1}
