"""Burn-ins that gpuhealth asks for become Tasks, once each, and their results are told back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from longhaul_core.clock import SystemClock
from longhaul_core.db import Database
from longhaul_core.db import leases as lease_table
from longhaul_core.errors import Unavailable
from longhaul_core.objects import ObjectStore, open_store
from longhaul_core.tasks import BurnInFigure, BurnInResult
from longhaul_training.adapters.burn_ins import BurnInKeeper
from longhaul_training.adapters.leadership import LEASE_NAME
from longhaul_training.adapters.node_health import BurnInRequest
from longhaul_training.adapters.task_store import TaskStore
from longhaul_training.domain.states import Reason
from longhaul_training.domain.tasks import TaskSpec, TaskState

REQUEST = BurnInRequest("node-1", "0123abcd" * 4, 2)
TASK = f"burn-in-{REQUEST.session}"
GOOD = BurnInResult(
    device="cpu",
    gpus=2,
    passed=True,
    failures=(),
    figures=(BurnInFigure(gpu=0, name="bf16_tflops", value=0.5, unit="TFLOPS"),),
    memory_bytes_checked=1,
    memory_errors=0,
    product_mismatches=0,
    seconds=1.0,
)


@dataclass
class Health:
    """gpuhealth as it is seen from here; refuses the first report."""

    burn_ins: dict[str, BurnInRequest] = field(default_factory=lambda: {"node-1": REQUEST})
    reports: list[BurnInResult] = field(default_factory=list)
    refusals: int = 1

    async def report(self, request: BurnInRequest, result: BurnInResult) -> None:
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("gpuhealth is away", reason="UNREACHABLE")
        self.reports.append(result)
        self.burn_ins.pop(request.node)


@dataclass
class Leader:
    term: int | None = 1


@dataclass
class Bench:
    health: Health
    tasks: TaskStore
    store: ObjectStore
    keeper: BurnInKeeper
    lease_term: int

    async def finish(self, state: TaskState) -> None:
        """The controller brings the task to its end."""
        stored = await self.tasks.get("default", TASK)
        control = replace(stored.task.control, state=state, reason=Reason("TIMEOUT", "not done after 1800 s"))
        await self.tasks.commit(stored, control, (), self.lease_term)

    async def until_reported(self) -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(self.keeper.run(stop))
        async with asyncio.timeout(60):
            while not self.health.reports:  # noqa: ASYNC110 (the state of a fake)
                await asyncio.sleep(0.01)
        stop.set()
        running.cancel()


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr("longhaul_training.adapters.burn_ins.LOOK_SECONDS", 0.01)
    db = await asyncio.to_thread(Database.open, f"sqlite:///{tmp_path}/training.sqlite3")
    lease = await db.run(lambda session: lease_table.acquire(session, LEASE_NAME, "me", "", 1000.0))
    assert lease is not None
    health, tasks, store = Health(), TaskStore(db, SystemClock()), open_store(f"file://{tmp_path}/objects")
    keeper = BurnInKeeper(health, tasks, store, Leader(), SystemClock())  # type: ignore[arg-type]
    yield Bench(health, tasks, store, keeper, lease.term)
    await asyncio.to_thread(db.close)


async def begun(bench: Bench) -> TaskSpec:
    """One look creates the task."""
    await bench.keeper._look(REQUEST)
    await bench.keeper._look(REQUEST)
    return (await bench.tasks.get("default", TASK)).task.spec


async def test_request_becomes_one_task_on_all_gpus_of_its_node(bench: Bench) -> None:
    spec = await begun(bench)
    assert (spec.kind, spec.node, spec.gpus) == ("BURN_IN", "node-1", 2)
    assert bench.health.reports == []


async def test_result_is_reported_until_gpuhealth_has_it(bench: Bench) -> None:
    spec = await begun(bench)
    bench.store.put(spec.result_key, GOOD.model_dump_json().encode())
    await bench.finish(TaskState.SUCCEEDED)
    await bench.until_reported()
    assert bench.health.reports == [GOOD]
    assert bench.health.refusals == 0


async def test_task_that_failed_proves_nothing_good_of_the_node(bench: Bench) -> None:
    await begun(bench)
    await bench.finish(TaskState.FAILED)
    await bench.until_reported()
    [result] = bench.health.reports
    assert not result.passed
    assert "ended as FAILED: TIMEOUT not done after 1800 s" in result.failures[0]


async def test_result_that_cannot_be_read_counts_as_failed(bench: Bench) -> None:
    spec = await begun(bench)
    bench.store.put(spec.result_key, b'{"device": 1}')
    await bench.finish(TaskState.SUCCEEDED)
    await bench.until_reported()
    assert "left no readable result" in bench.health.reports[0].failures[0]
