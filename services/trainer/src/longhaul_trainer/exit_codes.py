"""What a worker's exit code means; the controller chooses the repair by it (docs/exit-codes.md)."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of workers and tasks."""

    DONE = 0
    CONFIGURATION = 64
    DATA = 65
    INTERNAL = 70
    RETRY = 75
    OUT_OF_MEMORY = 80
    ANOMALY = 81
    PREEMPTED = 82
    GATE_FAILED = 83
