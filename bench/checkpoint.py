"""Checkpoints of the trainer against torch.distributed.checkpoint on the same state and the same disk.

Ours and the peer alternate; medians of five. The stall is what the step waits for: the start of a save and the join
before the next update, at worst, that is with no computation in between to hide the copy. The write counts from the
start of a save until every byte is in the store, synced and digested. Loads count from an empty model to a full one.
Last, a catalogue of 100,000 checkpoints is asked for a page and for the latest one, over gRPC.

Usage: python bench/checkpoint.py [MEGABYTES]
"""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoint_catalogue
import torch
import torch.distributed.checkpoint as dcp
from longhaul_core.manifests import Manifest, Part, put_part
from longhaul_core.objects import open_store
from longhaul_trainer.checkpoint.part_file import PartImage
from longhaul_trainer.checkpoint.restore import restore_slices
from longhaul_trainer.checkpoint.slices import TensorSlice

REPEATS = 5
STEPS_BETWEEN_SAVES, STEP_SECONDS = 50, 1.0
_met = 0
_rows = 0


def emit(bench: str, mine: float, theirs: float, unit: str, target: float, peer_name: str, *, lower: bool) -> None:
    """One row. `ratio` is ours over the peer's; the target bounds it from above where lower is better."""
    global _met, _rows
    ratio = mine / theirs
    met = ratio <= target if lower else ratio >= target
    _rows, _met = _rows + 1, _met + met
    line = {"bench": bench, "ours": round(mine, 4), "peer": round(theirs, 4), "peer_name": peer_name, "unit": unit}
    print(json.dumps({**line, "ratio": round(ratio, 4), "target": target, "met": bool(met)}), flush=True)


def make_state(megabytes: int) -> dict[str, torch.Tensor]:
    """Float32 matrices of 4 MB, as a model and its moments have them."""
    generator = torch.Generator().manual_seed(0)
    return {f"layers.{n}.weight": torch.randn(1024, 1024, generator=generator) for n in range(megabytes // 4)}


def slices_of(state: dict[str, torch.Tensor]) -> list[TensorSlice]:
    return [TensorSlice(name, value, tuple(value.shape), (0, 0)) for name, value in state.items()]


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    answer = action()
    return time.perf_counter() - began, answer


def compare(state: dict[str, torch.Tensor], folder: Path) -> None:
    store = open_store(f"file://{folder / 'objects'}")
    image = PartImage("model-00000-of-00001.safetensors", slices_of(state))
    size = sum(value.nbytes for value in state.values())
    found: dict[str, list[float]] = {name: [] for name in ("stall", "write", "load", "peer save", "peer load")}
    empty = {name: torch.empty_like(value) for name, value in state.items()}
    for turn in range(REPEATS):
        key = f"checkpoints/{turn}/{image.name}"
        staged, done = threading.Event(), threading.Event()
        parts: list[Part] = []

        def save(key: str = key, staged: Any = staged, done: Any = done, parts: list[Part] = parts) -> None:
            image.fill()
            staged.set()
            parts.append(put_part(store, key, image.data))
            done.set()

        began = time.perf_counter()
        threading.Thread(target=save).start()
        staged.wait()
        found["stall"].append(time.perf_counter() - began)
        done.wait()
        found["write"].append(time.perf_counter() - began)
        peer_folder = folder / f"dcp-{turn}"
        seconds, _ = timed(lambda to=peer_folder: dcp.save(state, checkpoint_id=to, no_dist=True))
        found["peer save"].append(seconds)
        manifest = Manifest(kind="Checkpoint", name="bench", uid="bench", created="2026-01-01T00:00:00Z", parts=parts)
        seconds, _ = timed(lambda m=manifest: restore_slices(store, m, "model-", slices_of(empty)))
        found["load"].append(seconds)
        assert all(torch.equal(empty[name], value) for name, value in state.items())
        seconds, _ = timed(lambda of=peer_folder: dcp.load(empty, checkpoint_id=of, no_dist=True))
        found["peer load"].append(seconds)
        shutil.rmtree(peer_folder)
        store.delete(key)
    middle = {name: statistics.median(values) for name, values in found.items()}
    emit("stall of a save", middle["stall"], middle["peer save"], "s", 0.10, "synchronous dcp.save", lower=True)
    share = middle["stall"] / (STEPS_BETWEEN_SAVES * STEP_SECONDS)
    emit("stall, share of training", share, 1.0, "50 steps of 1 s", 0.01, "training time", lower=True)
    write, peer_write = size / middle["write"] / 1e9, size / middle["peer save"] / 1e9
    emit("sustained write", write, peer_write, "GB/s", 0.9, "dcp.save, not digested", lower=False)
    emit("verified load", middle["load"], middle["peer load"], "s", 1.3, "dcp.load, not verified", lower=True)


def main() -> None:
    megabytes = int(sys.argv[1]) if sys.argv[1:] else 256
    folder = Path(tempfile.mkdtemp(prefix="longhaul-bench-"))
    try:
        compare(make_state(megabytes), folder)
        for name, seconds in asyncio.run(checkpoint_catalogue.measure(folder / "catalogue")).items():
            emit(f"{name} of {checkpoint_catalogue.ROWS:,} checkpoints", seconds, 1.0, "s", 0.010, "1 s", lower=True)
    finally:
        shutil.rmtree(folder)
    print(f"bench-checkpoint: {_met} of {_rows} targets met")


if __name__ == "__main__":
    main()
