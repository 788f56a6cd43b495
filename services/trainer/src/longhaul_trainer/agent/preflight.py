"""Quick checks of a node before its agent joins: object store, scratch disk, memory, GPUs. No device is opened.

An object store that is away is waited for: that is no fault of the node.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from longhaul.training.v1.training_run_pb2 import PreflightCheck
from longhaul_core.errors import LonghaulError
from longhaul_core.objects import ObjectStore

from longhaul_trainer.agent.settings import AgentSettings

STORAGE_BYTES = 1 << 20
STORAGE_PATIENCE_SECONDS = 60.0
RETRY_SECONDS = 1.0
LEAST_SCRATCH_BYTES = 256 << 20
LEAST_MEMORY_BYTES = 256 << 20


def check_node(settings: AgentSettings, store: ObjectStore) -> list[PreflightCheck]:
    """All checks, in the order of the checklist."""
    key = f"projects/{settings.project}/runs/{settings.run}/preflight/{settings.pod}"
    return [
        check_storage(store, key, settings.node),
        _check_scratch(settings),
        _check_memory(settings.node),
        _check_gpus(settings),
    ]


def check_storage(store: ObjectStore, key: str, node: str) -> PreflightCheck:
    """Writes an object, reads it back, removes it."""
    data = os.urandom(STORAGE_BYTES)
    deadline = time.monotonic() + STORAGE_PATIENCE_SECONDS
    while True:
        started = time.perf_counter()
        try:
            store.put(key, data)
            read = store.get(key)
            store.delete(key)
        except LonghaulError as error:
            if time.monotonic() < deadline:
                time.sleep(RETRY_SECONDS)
                continue
            return PreflightCheck(node=node, check="storage", passed=False, message=str(error))
        rate = 2 * len(data) / max(time.perf_counter() - started, 1e-9) / 1e6
        same = read == data
        text = f"written and read back at {rate:.0f} MB/s" if same else "what was read back is not what was written"
        return PreflightCheck(node=node, check="storage", passed=same, message=text, value=rate)


def _check_scratch(settings: AgentSettings) -> PreflightCheck:
    folder = Path(settings.scratch_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".preflight"
        probe.write_bytes(b"longhaul")
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return PreflightCheck(node=settings.node, check="scratch", passed=False, message=f"{folder}: {error}")
    text = f"{free / 1e9:.1f} GB free under {folder}"
    return PreflightCheck(
        node=settings.node, check="scratch", passed=free >= LEAST_SCRATCH_BYTES, message=text, value=free / 1e9
    )


def _check_memory(node: str) -> PreflightCheck:
    lines = Path("/proc/meminfo").read_text().splitlines()
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}
    free = values.get("MemAvailable", 0)
    text = f"{free / 1e9:.1f} GB of memory available"
    return PreflightCheck(node=node, check="memory", passed=free >= LEAST_MEMORY_BYTES, message=text, value=free / 1e9)


def _check_gpus(settings: AgentSettings) -> PreflightCheck:
    """NVIDIA's device files, where there are any: a GPU that fell off the bus has none."""
    found = len(list(Path("/dev").glob("nvidia[0-9]*")))
    text = (
        f"{found} GPU(s) in /dev, {settings.gpus} asked for" if found else "no NVIDIA device: work is done on the CPU"
    )
    passed = not found or found >= settings.gpus
    return PreflightCheck(node=settings.node, check="gpus", passed=passed, message=text, value=float(found))
