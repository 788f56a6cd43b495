"""What one device is tested for: products, memory, and the way to and from the host."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from longhaul_core.tasks import BurnInArguments
from torch import Tensor

PATTERNS = (0x00, 0xFF, 0x55, 0xAA)
PATTERN_BYTES = 1 << 28
FP8_CAPABILITY = (8, 9)
Figure = tuple[str, float, str]


@dataclass(frozen=True, slots=True)
class DeviceCheck:
    """What was found of one device; `figures` are name, value and unit."""

    figures: tuple[Figure, ...]
    mismatches: int
    memory_bytes: int
    memory_errors: int

    def figure(self, name: str) -> float:
        """The value of a figure that every device has."""
        return next(value for known, value, _ in self.figures if known == name)


def device_name(device: torch.device) -> str:
    """Model of a GPU; `cpu` where a processor stands in for one."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def check_device(device: torch.device, arguments: BurnInArguments, seconds: float) -> DeviceCheck:
    """Runs all checks on one device, for about as many seconds."""
    cuda, budget = device.type == "cuda", seconds
    size = arguments.matrix_size or (8192 if cuda else 768)
    dtype = torch.bfloat16 if cuda else torch.float32
    tflops, mismatches = _multiply(device, dtype, size, budget * 0.4)
    figures: list[Figure] = [("bf16_tflops", tflops, "TFLOPS")]
    if cuda and torch.cuda.get_device_capability(device) >= FP8_CAPABILITY:
        figures.append(("fp8_tflops", _multiply_fp8(device, size, budget * 0.2), "TFLOPS"))
    block = _block_bytes(device, arguments)
    figures.append(("memory_bandwidth", _copy_bandwidth(device, block, budget * 0.1), "GB/s"))
    figures += _host_bandwidths(device, min(block, 1 << 28), budget * 0.1)
    errors = _memory_errors(device, block)
    return DeviceCheck(tuple(figures), mismatches, block, errors)


def _multiply(device: torch.device, dtype: torch.dtype, size: int, budget: float) -> tuple[float, int]:
    """Throughput of square products, and how many repetitions differed from the first in any bit."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2))
    first = left @ right
    mismatches = torch.zeros((), dtype=torch.int64, device=device)
    product = torch.empty_like(first)
    seconds, repetitions = _repeat(device, lambda: torch.matmul(left, right, out=product), budget)
    for _ in range(8):
        mismatches += (left @ right != first).any()
    return 2.0 * size**3 * repetitions / seconds / 1e12, int(mismatches)


def _multiply_fp8(device: torch.device, size: int, budget: float) -> float:
    left = torch.randn(size, size, device=device).to(torch.float8_e4m3fn)
    right = torch.randn(size, size, device=device).to(torch.float8_e4m3fn).t()
    one = torch.ones((), device=device)

    def multiply() -> Tensor:
        product: Tensor = torch._scaled_mm(left, right, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
        return product

    seconds, repetitions = _repeat(device, multiply, budget)
    return 2.0 * size**3 * repetitions / seconds / 1e12


def _copy_bandwidth(device: torch.device, size: int, budget: float) -> float:
    """Gigabytes a second read and written by a large copy."""
    source = torch.zeros(size // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds, repetitions = _repeat(device, lambda: target.copy_(source), budget)
    return 2 * source.numel() * repetitions / seconds / 1e9


def _host_bandwidths(device: torch.device, size: int, budget: float) -> list[Figure]:
    host = torch.zeros(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    there = torch.empty(size, dtype=torch.uint8, device=device)
    figures: list[Figure] = []
    for name, source, target in (("host_to_device", host, there), ("device_to_host", there, host)):
        copy = _copier(target, source)
        seconds, repetitions = _repeat(device, copy, budget / 2)
        figures.append((name, size * repetitions / seconds / 1e9, "GB/s"))
    return figures


def _copier(target: Tensor, source: Tensor) -> Callable[[], Tensor]:
    return lambda: target.copy_(source, non_blocking=True)


def _memory_errors(device: torch.device, size: int) -> int:
    """Writes patterns over most of the device's memory and reads them back."""
    block = torch.empty(size, dtype=torch.uint8, device=device)
    errors = 0
    for pattern in PATTERNS:
        block.fill_(pattern)
        for first in range(0, size, PATTERN_BYTES):
            errors += int((block[first : first + PATTERN_BYTES] != pattern).sum())
    return errors


def _block_bytes(device: torch.device, arguments: BurnInArguments) -> int:
    if arguments.memory_bytes:
        return arguments.memory_bytes
    return int(torch.cuda.mem_get_info(device)[0] * 0.8) if device.type == "cuda" else 64 << 20


def _repeat(device: torch.device, action: Callable[[], Tensor], budget: float) -> tuple[float, int]:
    """Seconds and repetitions of an action, for about the budget; the first time does not count.

    Other programs take a processor away, but no GPU: where one stands in for the other, its own time counts.
    """
    action()
    _synchronise(device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    begun, end, repetitions = clock(), time.perf_counter() + budget, 0
    while repetitions == 0 or time.perf_counter() < end:
        for _ in range(8 if device.type == "cuda" else 1):
            action()
            repetitions += 1
        _synchronise(device)
    return max(clock() - begun, 1e-9), repetitions


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
