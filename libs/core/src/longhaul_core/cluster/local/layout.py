"""Where things lie in the folder of a local cluster, and how files get there durably."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from longhaul_core.errors import Unavailable

_LOCK_PATIENCE_SECONDS = 5.0
_LOCK_POLL_SECONDS = 0.002


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below the folder of the cluster."""

    root: Path

    @property
    def nodes(self) -> Path:
        """One folder a node."""
        return self.root / "nodes"

    @property
    def pods(self) -> Path:
        """One folder a namespace with one folder a pod."""
        return self.root / "pods"

    @property
    def trash(self) -> Path:
        """Deleted and half-made pods; nothing reads it."""
        return self.root / "trash"

    def node(self, name: str) -> Path:
        """Folder of a node."""
        return self.nodes / name

    def marks(self, name: str) -> Path:
        """Durable state of a node."""
        return self.node(name) / "node.json"

    def endpoint(self, name: str) -> Path:
        """Where a node's process listens, with its token."""
        return self.node(name) / "endpoint.json"

    def pod(self, namespace: str, name: str) -> Path:
        """Folder of a pod."""
        return self.pods / namespace / name

    def log(self, node: str, namespace: str, name: str, uid: str) -> Path:
        """Output of a pod."""
        return self.node(node) / "logs" / f"{namespace}.{name}.{uid[-8:]}.log"


def write_durably(directory: int, name: str, data: bytes) -> None:
    """Replace file `name` in the open `directory` atomically; on return it survives a power cut."""
    temporary = f".{name}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        os.unlink(temporary, dir_fd=directory)
        raise
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    os.fsync(directory)


def read_file(directory: int, name: str) -> bytes | None:
    """Content of file `name` in the open `directory`, or None."""
    try:
        descriptor = os.open(name, os.O_RDONLY, dir_fd=directory)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


@contextmanager
def open_directory(path: Path) -> Iterator[int]:
    """A descriptor of the folder that stays on it wherever it is moved. Raises `FileNotFoundError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def locked(descriptor: int, what: str) -> Iterator[None]:
    """Hold the advisory lock of an open folder for a few writes; the kernel frees it when the process dies.

    Raises `Unavailable` when a stopped process keeps it.
    """
    deadline = time.monotonic() + _LOCK_PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{what} is locked by a process that does not go on", reason="CLUSTER_FOLDER_LOCKED"
                ) from None
            time.sleep(_LOCK_POLL_SECONDS)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
