"""Child processes of the supervisor, known by number and start time."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
from longhaul_core.settings import ENVIRONMENT_PREFIX

from longhaul_client.local.layout import Layout, ProcessMark


def mark_of(pid: int) -> ProcessMark | None:
    """Return the mark of a living process, or None."""
    try:
        return ProcessMark(pid, psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def is_alive(mark: ProcessMark | None) -> bool:
    """Say whether the process with this mark still runs (a zombie does not)."""
    if mark is None:
        return False
    try:
        process = psutil.Process(mark.pid)
        return process.create_time() == mark.create_time and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def service_environment(layout: Layout, service: str) -> dict[str, str]:
    """Return the environment of a service process: its settings, and what a program needs to start."""
    environment = base_environment()
    environment.update({f"LONGHAUL_{name.upper()}_ADDRESS": address for name, address in layout.addresses.items()})
    environment.update(
        LONGHAUL_LISTEN_ADDRESS=layout.addresses[service],
        LONGHAUL_METRICS_ADDRESS=layout.metrics_addresses[service],
        LONGHAUL_DATA_DIR=str(layout.data_dir),
        LONGHAUL_WORKERS=str(layout.options.workers),
        LONGHAUL_SCORE_GPUS="0",  # pretend nodes score on the CPU, beside training and not after it
        LONGHAUL_SCORE_CONCURRENCY="1",
    )
    return environment


def base_environment() -> dict[str, str]:
    """Return this process's environment without settings of longhaul: those come from the layout alone."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


async def spawn(
    arguments: Sequence[str], environment: Mapping[str, str], log_file: Path, *, own_session: bool = False
) -> asyncio.subprocess.Process:
    """Start a Python module with its output appended to a log file."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *arguments,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=own_session,
        )


async def stop_process(mark: ProcessMark, *, grace_seconds: float) -> None:
    """End a process: SIGTERM, and SIGKILL when the grace is over."""
    for signal_number, patience in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 5.0)):
        if not is_alive(mark):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(mark.pid, signal_number)
        deadline = asyncio.get_running_loop().time() + patience
        # Not our child, so there is no exit to wait for: it is looked at.
        while is_alive(mark) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def last_lines(log_file: Path, count: int = 5) -> str:
    """Return the end of a log file, for an error message, without repetitions."""
    with contextlib.suppress(OSError):
        return "\n".join(dict.fromkeys(log_file.read_text(errors="replace").splitlines()[-count:]))
    return ""
