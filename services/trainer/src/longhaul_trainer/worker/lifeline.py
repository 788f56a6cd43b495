"""Ties a process to its parent. Free of torch."""

from __future__ import annotations

import ctypes
import os
import signal

from longhaul_trainer.exit_codes import ExitCode

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Has the kernel kill this process when its parent dies, however that happens."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(ExitCode.RETRY)
