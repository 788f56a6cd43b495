"""Stacks of workers that have stopped moving, taken before they are killed.

A worker answers SIGUSR1 by writing the stacks of all its threads to its log: faulthandler does so in the signal handler
itself, so that a rank which waits in a collective answers too. What the kernel has stopped or put to sleep for good
can't answer; of that the process state is told instead.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from longhaul_trainer.agent.worker import Worker
from longhaul_trainer.wire import Event

MINIMUM_SILENCE_SECONDS = 2.0
_USUAL_GAPS = 3.0
_ANSWER_SECONDS = 2.0
_QUIET_SECONDS = 0.2
_LONGEST_TEXT = 16_384
_STACK_LINE = re.compile(r'(Thread|Current thread) 0x|  File "|  \.\.\.|Stack \(most recent|  <no Python frame>')
_INNERMOST = re.compile(r'  File "(?:.*/)?([^"/]+)", line (\d+) in (\S+)')


@dataclass(frozen=True, slots=True)
class Stacks:
    """What a silent worker was doing. ``text``: its threads' stacks; empty where it did not answer."""

    rank: int
    epoch: int
    silent_seconds: float
    phase: str
    step: int
    text: str
    process_state: str

    def event(self) -> Event:
        """As an event of the run."""
        place = f"its main thread is in {self.innermost}" if self.text else "it did not answer"
        message = (
            f"Rank {self.rank} has been silent for {self.silent_seconds:.0f} s ({self.phase or 'starting'}, "
            f"step {self.step}): {place}; process {self.process_state}"
        )
        data: dict[str, str | float] = {
            "stacks": self.text[-_LONGEST_TEXT:],
            "process_state": self.process_state,
            "silent_seconds": round(self.silent_seconds, 1),
            "step": self.step,
        }
        return Event(kind="STACKS", cause="SILENT", message=message, time=time.time(), data=data)

    @property
    def innermost(self) -> str:
        """Innermost frame of the main thread, which faulthandler writes last."""
        threads = re.split(r"^(?=Thread 0x|Current thread 0x)", self.text, flags=re.MULTILINE)
        frame = _INNERMOST.search(threads[-1])
        return f"{frame[3]} ({frame[1]}:{frame[2]})" if frame else "no Python frame"


def is_stuck(worker: Worker) -> bool:
    """Whether a living worker has been silent for longer than its own pace explains."""
    usual = _USUAL_GAPS * worker.usual_gap_seconds()
    return worker.alive and worker.process_id > 0 and worker.silent_seconds() > max(MINIMUM_SILENCE_SECONDS, usual)


async def collect_stacks(workers: Sequence[Worker]) -> list[Stacks]:
    """Asks all stuck ones among these at the same time; takes two seconds at most."""
    stuck = [worker for worker in workers if worker.assignment is not None and is_stuck(worker)]
    return list(await asyncio.gather(*(_ask(worker) for worker in stuck)))


async def _ask(worker: Worker) -> Stacks:
    assert worker.assignment is not None
    silent = worker.silent_seconds()
    lines: list[str] = []
    with worker.overheard() as heard, suppress(ProcessLookupError):
        os.kill(worker.process_id, signal.SIGUSR1)
        lines = await _until_quiet(heard)
    return Stacks(
        rank=worker.assignment.rank,
        epoch=worker.assignment.epoch,
        silent_seconds=silent,
        phase=worker.phase,
        step=worker.step,
        text="\n".join(line for line in lines if _STACK_LINE.match(line)),
        process_state=_process_state(worker.process_id),
    )


async def _until_quiet(heard: asyncio.Queue[str]) -> list[str]:
    """The lines of one answer: it is written in one go, so that a short silence ends it."""
    lines: list[str] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(_ANSWER_SECONDS):
            while True:
                lines.append(await asyncio.wait_for(heard.get(), _QUIET_SECONDS if lines else _ANSWER_SECONDS))
    return lines


def _process_state(process_id: int) -> str:
    """State and wait channel as the kernel names them."""
    found = "unknown"
    with suppress(OSError):
        status = Path(f"/proc/{process_id}/status").read_text()
        found = next(line.partition(":")[2].strip() for line in status.splitlines() if line.startswith("State:"))
        channel = Path(f"/proc/{process_id}/wchan").read_text().strip()
        found = f"{found} in {channel}" if channel not in ("", "0") else found
    return found
