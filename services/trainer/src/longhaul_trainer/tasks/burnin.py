"""Checks the devices of a node before they may train.

Arithmetic must repeat bit for bit, memory must keep what was written; speed is measured on the way (matrix products in
bf16 and, where the device has it, fp8; memory, host-to-device, peer-to-peer and all-reduce bandwidth), so that a device
slower than its neighbours shows. The same code runs on a processor, where it takes threads for devices.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch
from longhaul_core.logging import get_logger
from longhaul_core.tasks import BurnInArguments, BurnInFigure, BurnInResult

from longhaul_trainer.tasks.burnin_device import DeviceCheck, check_device, device_name
from longhaul_trainer.tasks.burnin_links import all_reduce_bandwidth, peer_bandwidths
from longhaul_trainer.tasks.settings import TaskSettings

_log = get_logger(__name__)


def run_burnin(settings: TaskSettings) -> BurnInResult:
    """Runs all checks; a node that fails them is a result, not an error."""
    arguments = BurnInArguments.model_validate_json(settings.task_arguments or "{}")
    started = time.perf_counter()
    # First, since processes that come from a fork must not inherit a device that is in use already.
    count = _devices(settings)
    figures: list[BurnInFigure] = []
    broken: list[str] = []
    if count > 1:
        try:
            bandwidth = all_reduce_bandwidth(count)
            figures.append(BurnInFigure(gpu=-1, name="all_reduce_bandwidth", value=bandwidth, unit="GB/s"))
        except RuntimeError as error:
            broken.append(str(error))
    cuda = torch.cuda.is_available()
    devices = [torch.device("cuda", index) if cuda else torch.device("cpu") for index in range(count)]
    # Devices that are one processor share the time.
    each = arguments.seconds if cuda else arguments.seconds / count
    checks = [check_device(device, arguments, each) for device in devices]
    for index, check in enumerate(checks):
        figures += [BurnInFigure(gpu=index, name=name, value=value, unit=unit) for name, value, unit in check.figures]
    figures += [
        BurnInFigure(gpu=index, name="peer_bandwidth", value=value, unit="GB/s")
        for index, value in enumerate(peer_bandwidths())
    ]
    failures = [*broken, *_failures(arguments, checks, figures, settings.gpus, count)]
    result = BurnInResult(
        device=device_name(devices[0]),
        gpus=count,
        passed=not failures,
        failures=tuple(failures),
        figures=tuple(figures),
        memory_bytes_checked=sum(check.memory_bytes for check in checks),
        memory_errors=sum(check.memory_errors for check in checks),
        product_mismatches=sum(check.mismatches for check in checks),
        seconds=time.perf_counter() - started,
    )
    _log.info("node checked", passed=result.passed, device=result.device, gpus=count, failures=list(failures))
    return result


def _devices(settings: TaskSettings) -> int:
    """How many devices to test: those that are there, or as many as were promised on a processor."""
    return torch.cuda.device_count() if torch.cuda.is_available() else max(1, settings.gpus)


def _failures(
    arguments: BurnInArguments, checks: list[DeviceCheck], figures: Iterable[BurnInFigure], promised: int, found: int
) -> list[str]:
    failures = [f"{found} GPUs answer of {promised}"] if found < promised else []
    for index, check in enumerate(checks):
        if check.mismatches:
            failures.append(f"{check.mismatches} matrix products of GPU {index} differed from the first")
        if check.memory_errors:
            failures.append(f"{check.memory_errors} bytes of memory of GPU {index} did not keep their pattern")
    least = {"bf16_tflops": arguments.minimum_tflops, "memory_bandwidth": arguments.minimum_bandwidth_gigabytes}
    best: dict[tuple[str, bool], float] = {}
    kept = list(figures)
    for one in kept:
        best[one.name, one.gpu < 0] = max(one.value, best.get((one.name, one.gpu < 0), 0.0))
        if one.value < least.get(one.name, 0.0):
            failures.append(f"{one.name} of GPU {one.gpu} is {one.value:.1f} {one.unit}, below {least[one.name]:.1f}")
    if torch.cuda.is_available():
        failures += [
            f"{one.name} of GPU {one.gpu} is {one.value:.1f} {one.unit}, more than {arguments.peer_share:.0%} below "
            f"the best neighbour's {best[one.name, False]:.1f}"
            for one in kept
            if one.gpu >= 0 and one.value < (1 - arguments.peer_share) * best[one.name, False]
        ]
    return failures
