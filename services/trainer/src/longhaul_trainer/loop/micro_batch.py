"""Finds the largest micro-batch that fits: two small ones are computed for real, the rest follows from a line.

What a step holds beside the parameters (activations, logits) grows evenly with the sequences at once. The line through
two measurements names the largest size within the limit; that one is computed as well before it is taken, and a
smaller one if it proves too large. Every rank measures, and all decide by the largest measurement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from longhaul_core.recipe import TrainerConfig

from longhaul_trainer.data.samples import Batch
from longhaul_trainer.loop.step import Stepper
from longhaul_trainer.parallel.group import RankGroup

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def candidates(config: TrainerConfig, data_parallel: int) -> list[int]:
    """Sizes that divide every batch of the run into equal parts, the smallest first."""
    stages = range(len(config.data.context_stages) + 1)
    wholes = [config.data_of_stage(stage).global_batch_size for stage in stages]
    wholes += [part.global_batch_size for part in config.data.batch_ramp]
    each = math.gcd(*(whole // data_parallel for whole in wholes))
    return [size for size in range(1, each + 1) if each % size == 0]


def choose(sizes: Sequence[int], measure: Callable[[int], int], limit_bytes: int) -> int:
    """The largest of the sizes whose measurement stays within the limit; the smallest where none does.

    Args:
        sizes: in rising order.
        measure: bytes at most held by a step with so many sequences at once.
        limit_bytes: what a step may hold.
    """
    if len(sizes) == 1:
        return sizes[0]
    first, second = sizes[0], sizes[1]
    measure(first)  # what only the first step allocates, or compiles, is no part of the line
    low, high = measure(first), measure(second)
    each = max((high - low) / (second - first), 1.0)
    fitting = [size for size in sizes if low + (size - first) * each <= limit_bytes]
    while len(fitting) > 1 and measure(fitting[-1]) > limit_bytes:
        fitting.pop()
    return fitting[-1] if fitting else first


def find_micro_batch(stepper: Stepper, config: TrainerConfig, group: RankGroup, data_parallel: int) -> int:
    """The largest micro-batch for this run; every rank takes part and gets the same answer."""
    length, vocabulary = config.longest_sequence, stepper.vocabulary_size

    def measure(size: int) -> int:
        mine = _peak_bytes(group.device, lambda: _try(stepper, size, length, vocabulary))
        return max(int(answer) for answer in group.gather_documents(str(mine).encode()))

    limit = int(config.data.micro_batch_memory_gib * 2**30) or memory_limit(group)
    return choose(candidates(config, data_parallel), measure, limit)


def memory_limit(group: RankGroup, share: float = 0.9) -> int:
    """What one rank may hold: of its GPU, or of this machine's memory over all ranks."""
    if group.device.type == "cuda":
        return int(torch.cuda.get_device_properties(group.device).total_memory * share)
    total = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal:")
    )
    with suppress(OSError, ValueError):
        total = min(total, int(_CGROUP_LIMIT.read_text()))
    return int(total * share / group.size)


def _try(stepper: Stepper, size: int, length: int, vocabulary: int) -> None:
    """A step that is thrown away."""
    tokens = np.random.default_rng(size).integers(0, vocabulary, (size, length + 1))
    positions = np.tile(np.arange(length), (size, 1))
    stepper.measure(Batch(tokens[:, :-1].copy(), tokens[:, 1:].copy(), positions), [], size)
    stepper.discard()


def _peak_bytes(device: torch.device, action: Callable[[], None]) -> int:
    """Most memory held during the action: allocated on the GPU, else resident in the process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        action()
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # begins a new peak
    action()
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
