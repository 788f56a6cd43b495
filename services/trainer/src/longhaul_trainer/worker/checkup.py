"""A worker that checks its pod instead of training: the device, the way to the other ranks, storage, data, drills.

Each finding is a line of the run's pre-flight checklist. Speeds are only measured here; the controller compares them
with those of the other nodes, and a check that can fail by itself says so.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from longhaul_core.errors import LonghaulError
from longhaul_core.logging import get_logger
from longhaul_core.manifests import read_manifest
from longhaul_core.objects import ObjectStore, open_store
from longhaul_core.tasks import BurnInArguments

from longhaul_trainer.data.token_set import open_token_set
from longhaul_trainer.loop.drills import Drill, planted
from longhaul_trainer.parallel.group import RankGroup, choose_device, open_group
from longhaul_trainer.tasks.burnin_device import DeviceCheck, check_device, device_name
from longhaul_trainer.wire import Assignment, Phase
from longhaul_trainer.worker.channel import Channel

NODE_CHECKED = "NODE_CHECKED"
STORAGE_BYTES = 8 << 20

_log = get_logger(__name__)

Line = dict[str, Any]


def check_pod(assignment: Assignment, channel: Channel) -> None:
    """Runs all checks of this rank and reports what it found."""
    device = choose_device("auto", assignment.local_rank)
    channel.phase(Phase.STEPPING, 0)
    cuda = device.type == "cuda"
    seconds = 4.0 if cuda else 0.4
    # Before the ranks meet: a device that is broken must not be able to hang its partner for long.
    arguments = BurnInArguments(seconds=seconds, memory_bytes=0 if cuda else 16 << 20)
    model = device_name(device)
    lines = device_lines(check_device(device, arguments, seconds), model, planted(assignment))
    group = open_group(
        assignment.rank,
        assignment.world_size,
        device,
        rendezvous=assignment.rendezvous,
        listen_descriptor=channel.take_descriptor() if assignment.listens else None,
    )
    lines += [all_reduce_line(group)] if group.size > 1 else []
    store = open_store(assignment.object_store_url)
    for name, check in (
        ("storage", lambda: _check_storage(assignment, store)),
        ("data", lambda: _check_data(assignment, store)),
        ("resume", lambda: _drill_resume(assignment, store)),
        ("evaluation", lambda: _drill_evaluation(assignment, store)),
    ):
        lines.append(_guarded(name, check))
    failed = [line["check"] for line in lines if not line["passed"]]
    _log.info("pod checked", failed=failed, device=model)
    findings = json.dumps([{"node": assignment.node, **line} for line in lines])
    data: dict[str, str | float] = {"findings": findings, "device": model}
    channel.event(NODE_CHECKED, "PREFLIGHT", f"{len(lines) - len(failed)} of {len(lines)} checks passed", data)


def device_lines(result: DeviceCheck, model: str, drill: Drill) -> list[Line]:
    """The lines of a device: matrix products, and memory that keeps what was written."""
    wrong, tflops = result.mismatches, drill.measured_speed(result.figure("bf16_tflops"))
    gemm = f"{tflops:.2f} TFLOPS on {model}" + (f", {wrong} products differed" if wrong else "")
    memory = f"{result.memory_bytes >> 20} MiB checked, {result.memory_errors} wrong bytes"
    return [
        _line("gemm", wrong == 0, gemm, tflops),
        _line("gpu_memory", result.memory_errors == 0, memory, result.figure("memory_bandwidth")),
    ]


def all_reduce_line(group: RankGroup) -> Line:
    """Bus bandwidth of an all-reduce over the group: 2·(n-1)/n of the bytes a rank sends, over the mean time."""
    cuda = group.device.type == "cuda"
    vector = torch.ones((256 << 20 if cuda else 4 << 20) // 4, device=group.device)
    repetitions = 20 if cuda else 5
    dist.all_reduce(vector)
    started = time.perf_counter()
    for _ in range(repetitions):
        dist.all_reduce(vector)
    if cuda:
        torch.cuda.synchronize(group.device)
    seconds = (time.perf_counter() - started) / repetitions
    rate = 2 * (group.size - 1) / group.size * vector.numel() * 4 / seconds / 1e9
    exact = bool(vector[0] == float(group.size) ** (repetitions + 1))
    return _line("all_reduce", exact, f"{rate:.2f} GB/s over {group.size} ranks", rate)


def _guarded(name: str, check: Callable[[], Line]) -> Line:
    try:
        return check()
    except (LonghaulError, OSError, ValueError, RuntimeError) as error:
        return _line(name, False, f"{type(error).__name__}: {error}", 0.0)


def _check_storage(assignment: Assignment, store: ObjectStore) -> Line:
    data = torch.arange(STORAGE_BYTES // 8, dtype=torch.int64).numpy().tobytes()
    key = _key(assignment, "storage")
    started = time.perf_counter()
    store.put(key, data)
    same = store.get(key) == data
    seconds = time.perf_counter() - started
    store.delete(key)
    rate = 2 * len(data) / seconds / 1e6
    text = f"{len(data) >> 20} MiB written and read at {rate:.0f} MB/s" + ("" if same else ", but not the same")
    return _line("storage", same, text, rate)


def _check_data(assignment: Assignment, store: ObjectStore) -> Line:
    started = time.perf_counter()
    token_set = open_token_set(store, assignment.token_set_manifest_key, Path(assignment.scratch_dir) / "tokens")
    streams = token_set.streams("train", sorted(token_set.extra.sources))
    tokens = sum(stream.tokens for stream in streams)
    text = f"{tokens} training tokens reachable in {time.perf_counter() - started:.2f} s"
    return _line("data", tokens > 0, text, float(tokens))


def _drill_resume(assignment: Assignment, store: ObjectStore) -> Line:
    """The checkpoint that the run would begin with can be read; without one, state written is state read."""
    if assignment.resume_manifest_key:
        manifest = read_manifest(store, assignment.resume_manifest_key)
        part = manifest.parts[assignment.rank % len(manifest.parts)]
        size = store.stat(part.key).size
        text = f"{manifest.name}: {len(manifest.parts)} parts, {part.key.rsplit('/', 1)[1]} has {size} bytes"
        return _line("resume", size == part.size, text, float(size))
    torch.manual_seed(assignment.rank)
    model = torch.nn.Linear(64, 64)
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    key = _key(assignment, "resume")
    store.put(key, before.numpy().tobytes())
    after = torch.frombuffer(bytearray(store.get(key)), dtype=before.dtype)
    store.delete(key)
    same = torch.equal(before, after)
    text = "state written to the store came back bit by bit" if same else "state came back changed"
    return _line("resume", same, text, 1.0)


def _drill_evaluation(assignment: Assignment, store: ObjectStore) -> Line:
    """Held-out text can be read and gives a loss that is a number."""
    token_set = open_token_set(store, assignment.token_set_manifest_key, Path(assignment.scratch_dir) / "tokens")
    streams = token_set.streams("valid", sorted(token_set.extra.sources))
    length = min(32, *(stream.tokens - 1 for stream in streams))
    tokens, _ = streams[0].gather(torch.zeros(1, dtype=torch.int64).numpy(), length)
    vocabulary = token_set.extra.vocabulary_size
    embedding, head = torch.nn.Embedding(vocabulary, 16), torch.nn.Linear(16, vocabulary)
    ids = torch.from_numpy(tokens)
    logits = head(embedding(ids[:, :-1]))
    loss = float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))
    return _line("evaluation", math.isfinite(loss), f"loss {loss:.3f} on {length} held-out tokens", loss)


def _key(assignment: Assignment, name: str) -> str:
    folder = f"projects/{assignment.project}/runs/{assignment.run}/preflight"
    return f"{folder}/e{assignment.epoch}-{assignment.node}-{assignment.rank}-{name}"


def _line(check: str, passed: bool, message: str, value: float) -> Line:
    return {"check": check, "passed": bool(passed), "message": message, "value": float(value)}
