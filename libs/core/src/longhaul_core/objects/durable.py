"""Steps of durable local writes: temporary files that say whether their writer lives, and synced folders."""

import errno
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from longhaul_core.errors import (
    FailedPrecondition,
    Internal,
    LonghaulError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
)

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MOST_RESERVED_BYTES = 64 << 20
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}


def create_temporary(folder: Path) -> tuple[int, Path]:
    """Create a new file for writing in `folder` and lock it for as long as its descriptor is open."""
    path = folder / uuid.uuid4().hex
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor, path


def sweep_temporaries(folder: Path, older_than_seconds: float) -> int:
    """Remove the files of dead writers: old, and not locked. Returns how many."""
    oldest = time.time() - older_than_seconds
    removed = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            if path.stat().st_mtime <= oldest and _unlocked(path):
                path.unlink()
                removed += 1
    return removed


def _unlocked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def write_all(descriptor: int, data: bytes | memoryview) -> int:
    """Write all of `data`; `write(2)` may take a part, of more than 2 GiB it always does."""
    view = memoryview(data).cast("B")
    total = len(view)
    while view:
        view = view[os.write(descriptor, view) :]
    return total


def reserve_bytes(folder: Path) -> int:
    """Bytes of the file system of `folder` that objects leave free, so that databases can still record what happened.

    A twentieth, at most 64 MiB.
    """
    return min(_MOST_RESERVED_BYTES, shutil.disk_usage(folder).total // 20)


def keep_reserve(descriptor: int, size: int, reserve: int) -> None:
    """Raise ENOSPC, as a full disk does, where writing `size` bytes would eat into the reserve."""
    status = os.fstatvfs(descriptor)
    if status.f_bavail * status.f_frsize - size < reserve:
        text = f"{os.strerror(errno.ENOSPC)}, {reserve >> 20} MiB are kept for the databases"
        raise OSError(errno.ENOSPC, text)


def sync_folders(folder: Path, root: Path) -> None:
    """Make the entries of `folder` and of its parents up to `root` durable.

    The parents too, because another process may have created one and not synced it yet; a clean folder costs a few
    microseconds.
    """
    while True:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if folder == root:
            return
        folder = folder.parent


@contextmanager
def os_errors(path: Path, key: str = "") -> Iterator[None]:
    """Turn errors of the operating system into those of longhaul, once, with the path in them."""
    try:
        yield
    except OSError as error:
        raise _translate(error, path, key) from error


def _translate(error: OSError, path: Path, key: str) -> LonghaulError:
    metadata = {"path": str(path), "key": key}
    if error.errno in _FULL:
        free = _free_bytes(path)
        return ResourceExhausted(
            f"No space left to write {path} ({error.strerror}; {free} bytes free).",
            reason="DISK_FULL",
            metadata={**metadata, "free_bytes": str(free)},
            action="Free space, raise the quota, or move the data folder; what was committed is intact.",
        )
    if error.errno in _ABSENT and not key:
        return FailedPrecondition(
            f"{path} cannot be used ({error.strerror}).", reason="PATH_UNUSABLE", metadata={"path": str(path)}
        )
    if error.errno in _ABSENT:
        return NotFound(f"Object {key!r} is not in the store.", reason="OBJECT_NOT_FOUND", metadata=metadata)
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return PermissionDenied(
            f"No permission for {path} ({error.strerror}).", reason="OBJECT_STORE_PERMISSION", metadata=metadata
        )
    return Internal(f"{path}: {error.strerror or error}.", reason="OBJECT_STORE_IO", metadata=metadata)


def _free_bytes(path: Path) -> int:
    for folder in [path, *path.parents]:
        with suppress(OSError):
            return shutil.disk_usage(folder).free
    return 0
