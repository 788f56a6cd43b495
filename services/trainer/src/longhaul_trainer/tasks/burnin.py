"""Checks a node's device before it may train: arithmetic that repeats bit for bit, memory that keeps what was written.

Speed is measured on the way: GEMM throughput and memory bandwidth, so that a throttled device shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from longhaul_core.logging import get_logger
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from longhaul_trainer.parallel.group import choose_device
from longhaul_trainer.tasks.settings import TaskSettings

_log = get_logger(__name__)
_PATTERNS = (0x00, 0xFF, 0x55, 0xAA)


class BurnInArguments(BaseModel):
    """How hard and how long. Zeros choose sizes that fit the device."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float = Field(10.0, gt=0, le=3600)
    matrix_size: int = Field(0, ge=0)
    memory_bytes: int = Field(0, ge=0)
    minimum_tflops: float = Field(0.0, ge=0)
    minimum_bandwidth_gigabytes: float = Field(0.0, ge=0)


class BurnInResult(BaseModel):
    """What was measured. ``failures`` is empty where the device passed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    passed: bool
    failures: tuple[str, ...]
    tflops: float
    bandwidth_gigabytes_per_second: float
    memory_bytes_checked: int
    memory_errors: int
    gemm_mismatches: int
    seconds: float


def run_burnin(settings: TaskSettings) -> BurnInResult:
    """Runs all checks; a device that fails them is a result, not an error."""
    arguments = BurnInArguments.model_validate_json(settings.task_arguments or "{}")
    return check_device(choose_device("auto", 0), arguments)


def check_device(device: torch.device, arguments: BurnInArguments) -> BurnInResult:
    """Checks one device; the pre-flight of a run does it beside its peers."""
    started = time.perf_counter()
    tflops, mismatches = _multiply(device, arguments)
    bandwidth = _copy_bandwidth(device, arguments)
    checked, errors = _check_memory(device, arguments)
    result = _judge(
        arguments,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        tflops=tflops,
        bandwidth=bandwidth,
        checked=checked,
        errors=errors,
        mismatches=mismatches,
        seconds=time.perf_counter() - started,
    )
    _log.info("device checked", passed=result.passed, tflops=round(tflops, 3), failures=list(result.failures))
    return result


def _multiply(device: torch.device, arguments: BurnInArguments) -> tuple[float, int]:
    """GEMM throughput in TFLOPS, and how many repetitions differed from the first in any bit."""
    cuda = device.type == "cuda"
    size = arguments.matrix_size or (8192 if cuda else 768)
    dtype = torch.bfloat16 if cuda else torch.float32
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2))
    first = left @ right
    mismatches = torch.zeros((), dtype=torch.int64, device=device)
    _synchronise(device)
    started, repetitions = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < arguments.seconds / 2:
        mismatches += (left @ right != first).any()
        repetitions += 1
        if repetitions % 8 == 0:
            _synchronise(device)
    return 2.0 * size**3 * repetitions / max(elapsed, 1e-9) / 1e12, int(mismatches)


def _copy_bandwidth(device: torch.device, arguments: BurnInArguments) -> float:
    """Gigabytes a second read and written by a large copy."""
    size = arguments.memory_bytes or ((4 << 30) if device.type == "cuda" else (64 << 20))
    source = torch.zeros(size // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _seconds(device, lambda: target.copy_(source), arguments.seconds / 8) / 1e9


def _check_memory(device: torch.device, arguments: BurnInArguments) -> tuple[int, int]:
    """Writes patterns over most of the device's memory and reads them back."""
    size = arguments.memory_bytes or _most_memory(device)
    block = torch.empty(size, dtype=torch.uint8, device=device)
    errors = 0
    for pattern in _PATTERNS:
        block.fill_(pattern)
        errors += int((block != pattern).sum())
    return size, errors


def _most_memory(device: torch.device) -> int:
    return int(torch.cuda.mem_get_info(device)[0] * 0.4) if device.type == "cuda" else 128 << 20


def _seconds(device: torch.device, action: Callable[[], Tensor], budget: float) -> float:
    """Mean duration of an action, repeated for about the budget."""
    action()
    _synchronise(device)
    started, repetitions = time.perf_counter(), 0
    while repetitions == 0 or time.perf_counter() - started < budget:
        action()
        _synchronise(device)
        repetitions += 1
    return (time.perf_counter() - started) / repetitions


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _judge(
    arguments: BurnInArguments,
    *,
    device: str,
    tflops: float,
    bandwidth: float,
    checked: int,
    errors: int,
    mismatches: int,
    seconds: float,
) -> BurnInResult:
    failures = []
    if mismatches:
        failures.append(f"{mismatches} matrix products differed from the first")
    if errors:
        failures.append(f"{errors} bytes of memory did not keep their pattern")
    if tflops < arguments.minimum_tflops:
        failures.append(f"{tflops:.1f} TFLOPS are below {arguments.minimum_tflops:.1f}")
    if bandwidth < arguments.minimum_bandwidth_gigabytes:
        failures.append(f"{bandwidth:.1f} GB/s are below {arguments.minimum_bandwidth_gigabytes:.1f}")
    return BurnInResult(
        device=device,
        passed=not failures,
        failures=tuple(failures),
        tflops=tflops,
        bandwidth_gigabytes_per_second=bandwidth,
        memory_bytes_checked=checked,
        memory_errors=errors,
        gemm_mismatches=mismatches,
        seconds=seconds,
    )
