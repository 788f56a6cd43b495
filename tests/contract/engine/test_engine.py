"""What every engine promises."""

import asyncio
import signal
import threading
import time
from pathlib import Path

import engine_contract_tasks as tasks
import psutil
import pytest
from longhaul_core.engine import Engine, RemoteTaskError, WorkerDied
from longhaul_core.errors import Cancelled, ErrorCode, InvalidArgument

from tests.conftest import is_alive


async def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 120
    while is_alive(pid):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def start_waiting(engine: Engine) -> tuple[asyncio.Task[dict[str, object]], int]:
    """Submit a task that never ends, and return it with the process that runs it."""
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(
        engine.submit(tasks.wait_for_ever, {}, on_progress=lambda value: started.set_result(value["pid"]))
    )
    return running, await asyncio.wait_for(started, 180)


async def test_submit_returns_what_the_task_returns(engine: Engine) -> None:
    result = await engine.submit(tasks.add, {"left": 2, "right": 3})
    assert result["sum"] == 5
    assert result["pid"] != psutil.Process().pid


async def test_large_payloads_travel_both_ways(engine: Engine) -> None:
    payload = {"bytes": bytes(8 << 20), "path": Path("x"), "nested": {"set": {1, 2}}}
    assert await engine.submit(tasks.echo, payload) == payload


async def test_as_many_tasks_as_the_capacity_run_at_once_and_the_others_wait(engine: Engine, tmp_path: Path) -> None:
    assert engine.capacity == 2
    submits = [
        engine.submit(tasks.meet, {"folder": str(tmp_path), "index": index, "count": 2 + 2 * (index // 2)})
        for index in range(6)
    ]
    results = await asyncio.gather(*submits)
    assert len(results) == 6


@pytest.mark.parametrize("task", [tasks.count, tasks.count_on_a_thread])
async def test_progress_arrives_in_order_before_the_result(engine: Engine, task: tasks.Any) -> None:
    seen: list[int] = []
    await engine.submit(task, {"to": 50}, on_progress=lambda value: seen.append(value["number"]))
    assert seen == list(range(50))
    await engine.submit(task, {"to": 3})


def test_report_outside_an_engine_does_nothing() -> None:
    assert tasks.count({"to": 3}) == {"to": 3}


async def test_a_task_that_raises_is_told_with_type_message_and_traceback(engine: Engine) -> None:
    with pytest.raises(RemoteTaskError, match="ValueError: no luck") as caught:
        await engine.submit(tasks.raise_plain, {"what": "luck"})
    assert caught.value.error_type == "ValueError"
    assert "in raise_plain" in caught.value.traceback_text
    assert (caught.value.code, caught.value.reason) == (ErrorCode.INTERNAL, "TASK_FAILED")


async def test_an_error_of_longhaul_keeps_all_it_says(engine: Engine) -> None:
    with pytest.raises(RemoteTaskError) as caught:
        await engine.submit(tasks.raise_longhaul, {})
    error = caught.value
    assert (error.code, error.reason, error.metadata) == (ErrorCode.INVALID_ARGUMENT, "BAD_SHARD", {"shard": "7"})
    assert (error.message, error.action, error.error_type) == ("bad shard", "fix it", "InvalidArgument")
    assert isinstance(error.error, InvalidArgument)
    assert error.error.violations == (("shard", "is bad"),)


@pytest.mark.parametrize(
    ("task", "error_type"),
    [(tasks.leave, "SystemExit"), (tasks.return_text, "TypeError"), (tasks.return_unpicklable, "TypeError")],
)
async def test_an_answer_that_is_none_is_the_tasks_error(engine: Engine, task: tasks.Any, error_type: str) -> None:
    with pytest.raises(RemoteTaskError) as caught:
        await engine.submit(task, {})
    assert caught.value.error_type == error_type


async def test_a_killed_worker_fails_its_own_task_only(engine: Engine, tmp_path: Path) -> None:
    other = asyncio.create_task(engine.submit(tasks.meet, {"folder": str(tmp_path), "index": 0, "count": 2}))
    with pytest.raises(WorkerDied) as caught:
        await engine.submit(tasks.kill_self, {"signal": signal.SIGKILL})
    assert caught.value.reason == "WORKER_DIED"
    assert caught.value.metadata["task"] == "engine_contract_tasks:kill_self"
    again = await engine.submit(tasks.meet, {"folder": str(tmp_path), "index": 1, "count": 2})
    assert (await other)["pid"] != again["pid"]


async def test_cancelling_kills_the_task_and_frees_its_place(engine: Engine) -> None:
    first, first_pid = await start_waiting(engine)
    second, second_pid = await start_waiting(engine)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await wait_until_gone(first_pid)
    assert (await engine.submit(tasks.add, {"left": 1, "right": 1}))["sum"] == 2
    assert is_alive(second_pid)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    await wait_until_gone(second_pid)


async def test_a_timeout_around_submit_kills_the_task(engine: Engine) -> None:
    running, pid = await start_waiting(engine)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(running, 0.05)
    await wait_until_gone(pid)


async def test_an_error_of_on_progress_reaches_the_caller_and_spares_the_engine(engine: Engine) -> None:
    def refuse(value: dict[str, object]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await engine.submit(tasks.count, {"to": 5}, on_progress=refuse)
    assert (await engine.submit(tasks.add, {"left": 1, "right": 1}))["sum"] == 2


async def test_what_cannot_be_sent_is_refused(engine: Engine) -> None:
    def inner(payload: dict[str, object]) -> dict[str, object]:
        return payload

    for task in (inner, lambda payload: payload):
        with pytest.raises(InvalidArgument) as caught:
            await engine.submit(task, {})
        assert caught.value.reason == "TASK_NOT_IMPORTABLE"
    with pytest.raises(InvalidArgument) as caught:
        await engine.submit(tasks.echo, {"lock": threading.Lock()})
    assert caught.value.reason == "TASK_PAYLOAD_NOT_PICKLABLE"


async def test_close_kills_what_runs_and_refuses_more(engine: Engine) -> None:
    running, pid = await start_waiting(engine)
    await engine.close()
    with pytest.raises(Cancelled) as caught:
        await running
    assert caught.value.reason == "ENGINE_CLOSED"
    await wait_until_gone(pid)
    with pytest.raises(Cancelled):
        await engine.submit(tasks.add, {"left": 1, "right": 1})
