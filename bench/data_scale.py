"""Memory of deduplication, memory against the size of the input, and 2 workers against 1."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from data_inputs import REPEATS, WORDS, emit, texts


def _in_child(task: Callable[..., Any], *arguments: Any) -> Any:
    """Run in a spawned process; returns its answer."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(task, arguments)


def _peak_megabytes() -> float:
    """Peak of this program; `ru_maxrss` would hold that of the process it was forked from too."""
    (line,) = (row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _rss_megabytes() -> float:
    return float(psutil.Process().memory_info().rss / 2**20)


def _build_context(folder: str, key_of: Sequence[str]) -> Any:
    from datetime import UTC, datetime

    from longhaul_corpus.adapters.workspace import BuildContext
    from longhaul_corpus.domain.spec import BuildSpec, TokenizerTraining

    spec = BuildSpec(datasets=("projects/p/datasets/d",), training=TokenizerTraining(vocabulary_size=1024))
    return BuildContext(f"file://{folder}", "set", "tok", "projects/p/tokenSets/s", "u", datetime.now(UTC), "t", spec)


def _write_dataset(folder: Path, shards: int, documents: int, characters: int) -> list[str]:
    """Dataset shards of made-up documents of real words, a tenth of them copies."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    words = np.array(sorted(set(WORDS.findall(" ".join(texts()[:60])))), dtype=object)
    generator = np.random.default_rng(0)
    keys = []
    for shard in range(shards):
        picks = generator.integers(0, len(words), (documents, characters // 7))
        picks[::10] = picks[5]
        rows = [" ".join(words[row]) for row in picks]
        ids = [f"{shard:016x}{number:016x}" for number in range(documents)]
        urls = [f"https://example.org/{shard}/{number}" for number in range(documents)]
        table = pa.table({"id": ids, "source": ["web"] * documents, "url": urls, "text": rows})
        keys.append(f"data/{shard:05d}.parquet")
        (folder / "data").mkdir(exist_ok=True)
        pq.write_table(table, folder / keys[-1], compression="zstd", row_group_size=20_000)
    return keys


def _sign(folder: str, keys: Sequence[str], numbers: Sequence[int]) -> tuple[list[dict[str, Any]], float, float]:
    from longhaul_corpus.adapters.steps.signatures import sign_shard
    from longhaul_corpus.adapters.workspace import Workspace

    workspace = Workspace(_build_context(folder, keys))
    base = _rss_megabytes()
    rows = [sign_shard(workspace, {"shard": number, "key": keys[number]}) for number in numbers]
    return rows, base, _peak_megabytes()


def _deduplicate(folder: str, keys: Sequence[str], rows: list[dict[str, Any]]) -> tuple[float, float]:
    from longhaul_corpus.adapters.steps.deduplicate import deduplicate
    from longhaul_corpus.adapters.workspace import Workspace
    from longhaul_corpus.domain.clusters import DisjointSets

    sets = DisjointSets(4)
    sets.join_equal(np.zeros(4, dtype=np.uint64), np.ones(4, dtype=np.bool_))  # compiled before the baseline
    workspace = Workspace(_build_context(folder, keys))
    base = _rss_megabytes()
    deduplicate(workspace, {"shards": rows, "lost": []})
    return base, _peak_megabytes()


def memory() -> None:
    shards, documents = 10, 100_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys = _write_dataset(folder, shards, documents, 70)
        rows = []
        for number in range(shards):
            found, _, _ = _in_child(_sign, name, keys, [number])
            rows += found
        disk = sum(file.stat().st_size for file in (folder / "set/work/signatures").rglob("*") if file.is_file()) / 1e6
        base, peak = _in_child(_deduplicate, name, keys, rows)
    note = {"documents": shards * documents, "lower_is_better": True}
    band = 14 * 8 * shards * documents / 1e6
    emit(
        "dedup memory, 1M documents",
        peak - base,
        0,
        "none",
        "MB over baseline",
        200,
        bound=round(3 * 8 * shards * documents / 1e6),
        bound_is="keys, order and forest of one band",
        **note,
    )
    emit(
        "dedup disk, 1M documents",
        disk,
        0,
        "none",
        "MB",
        170,
        bound=round(band),
        bound_is="14 band digests of 64 bits",
        **note,
    )
    peaks = []
    with tempfile.TemporaryDirectory() as name:
        keys = _write_dataset(Path(name), 4, 4000, 3000)
        for count in (1, 4):
            _, base, peak = _in_child(_sign, name, keys, list(range(count)))
            peaks.append(peak)
    emit(
        "peak memory, 4 × the input against 1 ×",
        peaks[1],
        peaks[0],
        "the same with a quarter of the input",
        "MB",
        0.9,
        lower_is_better=True,
    )


def scaling() -> None:
    """Wall time of one phase over files by 1 and 2 workers of the engine; bound: bare processes doing the same."""
    import asyncio

    from longhaul_core.engine import LocalEngine

    with tempfile.TemporaryDirectory() as name:
        keys = _write_dataset(Path(name), 8, 2500, 4000)

        async def run(workers: int) -> tuple[float, float]:
            """Seconds on the clock, and those of CPU that nobody else could have worked through at the same time."""
            engine = LocalEngine(workers, preload=["longhaul_corpus.adapters.steps.signatures"])
            await engine.start()
            payload = {"folder": name, "keys": keys}
            await asyncio.gather(*(engine.submit(_task(), {**payload, "number": 0}) for _ in range(workers)))
            begun, own, others = time.perf_counter(), time.process_time(), _cpu_of_children()
            await asyncio.gather(*(engine.submit(_task(), {**payload, "number": n}) for n in range(len(keys))))
            taken, own = time.perf_counter() - begun, time.process_time() - own
            busiest = max(seconds - others[pid] for pid, seconds in _cpu_of_children().items())
            await engine.close()
            return taken, own + busiest

        rounds = [
            (*asyncio.run(run(1)), *asyncio.run(run(2)), _bare_wall(name, keys, 1), _bare_wall(name, keys, 2))
            for _ in range(REPEATS)
        ]
    one, cpu_one, two, cpu_two, bare_one, bare_two = (statistics.median(column) for column in zip(*rounds, strict=True))
    emit(
        "scaling by CPU time: all of 1 worker's against service and busier of 2",
        1 / cpu_two,
        1 / cpu_one,
        "1 worker",
        "runs/s (CPU)",
        1.8,
        bound=2.0,
        bound_is="half the work each, whatever else the machine does",
    )
    emit(
        "scaling, 2 workers against 1",
        1 / two,
        1 / one,
        "1 worker",
        "runs/s (wall)",
        1.8,
        bound=round(bare_one / bare_two, 2),
        bound_is="two bare processes against one, in the same run",
        load=round(os.getloadavg()[0], 1),
    )


def _cpu_of_children() -> dict[int, float]:
    return {child.pid: sum(child.cpu_times()[:2]) for child in psutil.Process().children()}


def _bare_wall(folder: str, keys: Sequence[str], processes: int) -> float:
    """Seconds that processes without an engine take for the same shards, once they are warm."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.starmap(_sign, [(folder, keys, [0])] * processes, chunksize=1)
        begun = time.perf_counter()
        pool.starmap(_sign, [(folder, keys, [number]) for number in range(len(keys))], chunksize=1)
        return time.perf_counter() - begun


def _task() -> Callable[[dict[str, Any]], dict[str, Any]]:
    sys.path.insert(0, str(Path(__file__).parent))
    import data_scale

    return data_scale.sign_task


def sign_task(payload: dict[str, Any]) -> dict[str, Any]:
    """Sign one shard, in a worker of the engine."""
    rows, _, _ = _sign(payload["folder"], payload["keys"], [payload["number"]])
    return rows[0]
