"""Reports of many pods of one run committed together, and reads that many share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from longhaul_core.clock import ManualClock
from longhaul_core.db import Database
from longhaul_core.errors import Aborted, Unavailable
from longhaul_core.objects import open_store
from longhaul_training.adapters.commands import Acknowledge, Redirect
from longhaul_training.adapters.hub import AgentSession
from longhaul_training.adapters.metric_journal import MetricJournal
from longhaul_training.adapters.project_store import ProjectStore
from longhaul_training.adapters.report_desk import ReportDesks
from longhaul_training.adapters.report_store import EventReport, NoticeReport, Report, ReportStore
from longhaul_training.adapters.run_store import RunStore
from longhaul_training.adapters.shared_read import SharedRead
from longhaul_training.convert.agents import rows_of
from longhaul_training.domain.actions import RunEvent
from test_adapters import AT, SPEC, leader

PODS = 40


class CountedStore(ReportStore):
    """Counts commits, and fails those that it is told to."""

    commits = 0
    failures: list[Exception]

    async def apply(
        self, project: str, run_id: str, reports: Mapping[str, Sequence[tuple[int, Report]]], term: int
    ) -> str:
        if self.failures:
            raise self.failures.pop()
        self.commits += 1
        return await super().apply(project, run_id, reports, term)


class Elsewhere:
    async def leader_address(self) -> str:
        return "other:1"


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database.open(f"sqlite:///{tmp_path / 'db.sqlite3'}")
    await ProjectStore(opened, ManualClock(AT)).create("p", {}, "")
    yield opened
    opened.close()


@pytest.fixture
async def store(db: Database, tmp_path: Path) -> CountedStore:
    clock, objects = ManualClock(AT), open_store(f"file://{tmp_path / 'objects'}")
    await RunStore(db, clock).create("p", "r", SPEC, "f", "")
    made = CountedStore(db, objects, clock, MetricJournal(objects, rows_of))
    made.failures = []
    return made


def desks_of(store: ReportStore) -> ReportDesks:
    elsewhere: Any = Elsewhere()
    return ReportDesks(store, elsewhere, lambda: None)


def event(pod: str) -> EventReport:
    return EventReport(RunEvent("SAID", "", pod))


async def test_reports_of_many_pods_are_one_commit_and_each_session_is_told(store: CountedStore, db: Database) -> None:
    desks, term = desks_of(store), await leader(db)
    sessions = [AgentSession(f"pod-{number}", "p", "r", term) for number in range(PODS)]
    with ExitStack() as served:
        desk, *others = [served.enter_context(desks.serving(session)) for session in sessions]
        assert all(other is desk for other in others)
        for session in sessions:
            desk.hand_in(session, 1, NoticeReport())
            desk.hand_in(session, 2, event(session.pod))
        told = [await asyncio.wait_for(session.outgoing.get(), 60) for session in sessions]
    assert told == [Acknowledge(2)] * PODS
    assert store.commits == 1
    sequences = (await RunStore(db, ManualClock(AT)).get("p", "r")).row.status["sequences"]
    assert sequences == {session.pod: 2 for session in sessions}
    with desks.serving(sessions[0]) as another:
        assert another is not desk, "the desk went with its last session"


async def test_commit_that_fails_is_tried_again_and_loses_no_report(store: CountedStore, db: Database) -> None:
    store.failures = [Unavailable("the database does not answer")]
    session = AgentSession("pod", "p", "r", await leader(db))
    with desks_of(store).serving(session) as desk:
        desk.hand_in(session, 1, event("pod"))
        assert await asyncio.wait_for(session.outgoing.get(), 60) == Acknowledge(1)
    assert (store.failures, store.commits) == ([], 1)


async def test_deposed_leader_sends_all_sessions_to_the_new_one(store: CountedStore, db: Database) -> None:
    term = await leader(db)
    sessions = [AgentSession(f"pod-{number}", "p", "r", term - 1) for number in range(2)]
    desks = desks_of(store)
    with desks.serving(sessions[0]) as desk, desks.serving(sessions[1]):
        desk.hand_in(sessions[0], 1, event("pod-0"))
        for session in sessions:
            assert await asyncio.wait_for(session.outgoing.get(), 60) == Redirect("other:1")
            assert await asyncio.wait_for(session.outgoing.get(), 60) is None


async def test_shared_read_answers_each_with_a_read_that_began_after_it_asked() -> None:
    began: asyncio.Queue[asyncio.Future[int]] = asyncio.Queue()

    async def read() -> int:
        gate: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        began.put_nowait(gate)
        return await gate

    shared = SharedRead(read)
    first = asyncio.create_task(shared.read())
    under_way = await began.get()
    late = [asyncio.create_task(shared.read()) for _ in range(3)]
    await asyncio.sleep(0)
    assert began.empty(), "they wait for the one that is under way"
    late[0].cancel()
    under_way.set_result(1)
    assert await first == 1
    (await began.get()).set_result(2)
    assert [await task for task in late[1:]] == [2, 2]
    assert not shared.busy
    failing = asyncio.create_task(shared.read())
    (await began.get()).set_exception(Aborted("moved", reason="MOVED"))
    with pytest.raises(Aborted):
        await failing
