"""One supervisor a data folder: an advisory lock that the kernel drops when its holder dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from longhaul_core.errors import FailedPrecondition


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock of a data folder.

    Raises:
        FailedPrecondition: DATA_FOLDER_IN_USE, naming the process that has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise in_use(path) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def lock_holder(path: Path) -> int | None:
    """Return the number of the process that holds the lock, or None when nobody does."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.pread(descriptor, 32, 0) or b"0")
    finally:
        os.close(descriptor)
    return None


def in_use(path: Path) -> FailedPrecondition:
    """Return the error of a data folder that another `longhaul up` owns."""
    holder = lock_holder(path)
    return FailedPrecondition(
        f"{path.parent} is in use by another `longhaul up` (process {holder})",
        reason="DATA_FOLDER_IN_USE",
        metadata={"pid": str(holder)},
        action=f"stop it with `longhaul down --data-dir {path.parent}`, or choose another folder with --data-dir",
    )
