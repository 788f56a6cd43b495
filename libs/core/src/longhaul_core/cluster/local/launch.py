"""Start and stop node processes; they outlive their starter."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from longhaul_core.cluster.local.layout import Layout
from longhaul_core.cluster.local.store import Store
from longhaul_core.errors import FailedPrecondition, Unavailable

START_PATIENCE_SECONDS = 20.0
_POLL_SECONDS = 0.02


def start_node(
    cluster_dir: Path, name: str, *, gpus: int, exporter_url: str = "", labels: Mapping[str, str] | None = None
) -> int:
    """Start a node process in a session of its own and wait until it serves; returns its process id.

    Raises `FailedPrecondition` when it refuses to start (then its log says why), `Unavailable` when it takes too long.
    """
    store = Store(Layout(cluster_dir.resolve()))
    store.prepare()
    folder = store.layout.node(name)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = [sys.executable, "-m", "longhaul_core.cluster.local.node", "--cluster-dir", str(store.layout.root)]
    command += ["--name", name, "--gpus", str(gpus), "--exporter-url", exporter_url]
    for key, value in (labels or {}).items():
        command += ["--label", f"{key}={value}"]
    log_path = folder / "node.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + START_PATIENCE_SECONDS
    while time.monotonic() < deadline:
        endpoint = store.load_endpoint(name)
        if endpoint is not None and endpoint.pid == process.pid:
            return process.pid
        if process.poll() is not None:
            raise FailedPrecondition(
                f"node {name} did not start (exit code {process.returncode})",
                reason="NODE_NOT_STARTED",
                metadata={"node": name, "log": str(log_path)},
                action=f"see {log_path}",
            )
        time.sleep(_POLL_SECONDS)
    process.kill()
    raise Unavailable(f"node {name} did not serve within {START_PATIENCE_SECONDS:g} s", reason="NODE_NOT_STARTED")


def running_nodes(cluster_dir: Path) -> dict[str, int]:
    """Process ids of the nodes whose processes hold their lock now."""
    store = Store(Layout(cluster_dir.resolve()))
    found: dict[str, int] = {}
    for name in store.node_names():
        endpoint = store.load_endpoint(name)
        if endpoint is not None and _is_locked(store.layout.node(name) / "process.lock"):
            found[name] = endpoint.pid
    return found


def stop_node(cluster_dir: Path, name: str, *, patience_seconds: float = 15.0) -> None:
    """Ask a node process to end its pods and itself, and wait; kill it when it does not. No process is no error."""
    pid = running_nodes(cluster_dir).get(name)
    if pid is None:
        return
    lock = Layout(cluster_dir.resolve()).node(name) / "process.lock"
    for number, patience in ((signal.SIGTERM, patience_seconds), (signal.SIGKILL, patience_seconds)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + patience
        while _is_locked(lock) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        if not _is_locked(lock):
            break
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)  # only when it is a child of this process


def _is_locked(path: Path) -> bool:
    """Whether a living process holds the lock, so that the recorded process id is still that process."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
