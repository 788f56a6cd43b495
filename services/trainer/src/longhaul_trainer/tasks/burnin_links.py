"""The ways between the devices of a node: copies from one to the next, and a sum over all of them."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed as dist

COPY_BYTES = 1 << 28
REPETITIONS = 8
TIMEOUT_SECONDS = 120.0
CPU_SUM_BYTES, GPU_SUM_BYTES = 1 << 22, 1 << 28


def peer_bandwidths() -> list[float]:
    """Gigabytes a second from each GPU to the next; empty where there are fewer than two."""
    count = torch.cuda.device_count()
    if count < 2:
        return []
    found = []
    for index in range(count):
        source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=f"cuda:{index}")
        target = torch.empty(COPY_BYTES, dtype=torch.uint8, device=f"cuda:{(index + 1) % count}")
        target.copy_(source)
        torch.cuda.synchronize(index)
        started = time.perf_counter()
        for _ in range(REPETITIONS):
            target.copy_(source, non_blocking=True)
        torch.cuda.synchronize(index)
        torch.cuda.synchronize((index + 1) % count)
        found.append(COPY_BYTES * REPETITIONS / (time.perf_counter() - started) / 1e9)
    return found


def all_reduce_bandwidth(ranks: int) -> float:
    """Bus bandwidth of a sum over all devices, as nccl-tests count it: 2 (n - 1) / n of the bytes cross each link.

    Raises RuntimeError when a rank ends or is not done in time: collectives would hang in training, too.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "rendezvous")
        mine, theirs = context.Pipe(duplex=False)
        workers = [
            context.Process(target=_sum, args=(rank, ranks, store, theirs), daemon=True) for rank in range(ranks)
        ]
        for worker in workers:
            worker.start()
        try:
            deadline = time.monotonic() + TIMEOUT_SECONDS
            while not mine.poll(0.2):
                if time.monotonic() > deadline or any(worker.exitcode not in (None, 0) for worker in workers):
                    raise RuntimeError("the sum over all devices did not end")
            bandwidth: float = mine.recv()
        finally:
            for worker in workers:
                worker.join(5.0)
                worker.kill()
    return bandwidth


def _sum(rank: int, ranks: int, store: str, answer: Connection) -> None:
    cuda = torch.cuda.is_available()
    if not cuda:
        torch.set_num_threads(1)
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=TIMEOUT_SECONDS),
    )
    block = torch.ones((GPU_SUM_BYTES if cuda else CPU_SUM_BYTES) // 4, device=device)
    dist.all_reduce(block)
    dist.barrier()
    started = time.perf_counter()
    for _ in range(REPETITIONS):
        dist.all_reduce(block)
    if cuda:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - started
    if rank == 0:
        size = block.numel() * block.element_size()
        answer.send(2 * (ranks - 1) / ranks * size * REPETITIONS / seconds / 1e9)
    dist.barrier()
    dist.destroy_process_group()
