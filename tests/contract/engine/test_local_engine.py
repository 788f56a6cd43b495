"""What only the engine of this machine promises about its processes."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import engine_contract_tasks as tasks
import psutil
import pytest
from longhaul_core.engine import LocalEngine, RemoteTaskError, WorkerDied, WorkerMemoryExceeded
from longhaul_core.errors import ErrorCode

from tests.conftest import is_alive

MIB = 1 << 20

SERVICE = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
import engine_contract_tasks as tasks
from longhaul_core.engine import LocalEngine

async def main():
    engine = LocalEngine(2)
    await engine.start()
    idle = (await engine.submit(tasks.describe, {}))["pid"]
    await engine.submit(tasks.wait_for_ever, {}, on_progress=lambda value: print(value["pid"], flush=True))

asyncio.run(main())
"""


def workers() -> list[int]:
    """The workers of this process, which has other children too."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # it has just ended
            if is_alive(child.pid) and "longhaul_core.engine.worker" in child.cmdline():
                found.append(child.pid)
    return found


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 120
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def test_a_dead_worker_is_told_by_signal_or_exit_code(local_engine: LocalEngine) -> None:
    with pytest.raises(WorkerDied, match="signal 11") as killed:
        await local_engine.submit(tasks.kill_self, {"signal": signal.SIGSEGV})
    assert (killed.value.signal, killed.value.exit_code) == (signal.SIGSEGV, None)
    with pytest.raises(WorkerDied, match="exit code 7") as ended:
        await local_engine.submit(tasks.exit_hard, {"code": 7})
    assert (ended.value.signal, ended.value.exit_code) == (None, 7)
    assert ended.value.code is ErrorCode.UNAVAILABLE


def test_workers_die_with_a_service_that_is_killed() -> None:
    command = [sys.executable, "-c", SERVICE, str(Path(tasks.__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        busy = int(service.stdout.readline())
        pids = [child.pid for child in psutil.Process(service.pid).children()]
        service.kill()
    assert len(pids) == 2
    assert busy in pids
    for pid in pids:
        wait_until_gone(pid)


async def test_workers_are_reused_niced_and_keep_to_one_thread(local_engine: LocalEngine) -> None:
    seen = [await local_engine.submit(tasks.describe, {}) for _ in range(3)]
    assert len({one["pid"] for one in seen}) == 1
    assert seen[0]["nice"] == min(19, os.nice(0) + 10)
    assert seen[0]["threads"] == "1"


async def test_a_worker_that_dies_idle_costs_no_task(local_engine: LocalEngine) -> None:
    for _ in range(5):
        pid = (await local_engine.submit(tasks.describe, {}))["pid"]
        os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)
    assert (await local_engine.submit(tasks.describe, {}))["pid"] != pid


async def test_cancelling_kills_what_the_task_started(local_engine: LocalEngine) -> None:
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(
        local_engine.submit(tasks.wait_with_a_child, {}, on_progress=lambda value: started.set_result(value["pid"]))
    )
    child = await asyncio.wait_for(started, 120)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    wait_until_gone(child)


async def test_preload_imports_before_the_first_task() -> None:
    engine = LocalEngine(1, preload=["wave"])
    try:
        await engine.start()
        assert "wave" in (await engine.submit(tasks.describe, {}))["modules"]
    finally:
        await engine.close()


async def test_preload_that_fails_is_told_and_leaves_no_process() -> None:
    engine = LocalEngine(1, preload=["no_such_module"])
    for start in (engine.start, lambda: engine.submit(tasks.describe, {})):
        with pytest.raises(RemoteTaskError, match="no_such_module"):
            await start()
    assert workers() == []


async def test_a_task_over_the_memory_limit_is_killed_and_told() -> None:
    engine = LocalEngine(1, memory_limit_bytes=200 * MIB)
    try:
        with pytest.raises(WorkerMemoryExceeded) as caught:
            await engine.submit(tasks.take_memory, {"bytes": 400 * MIB, "hold": True})
        assert caught.value.code is ErrorCode.RESOURCE_EXHAUSTED
        assert int(caught.value.metadata["used_bytes"]) > 200 * MIB
        await engine.submit(tasks.take_memory, {"bytes": 20 * MIB, "hold": False})
    finally:
        await engine.close()


async def test_close_leaves_no_process(local_engine: LocalEngine) -> None:
    await local_engine.start()
    assert len(workers()) == 2
    await local_engine.close()
    assert workers() == []
