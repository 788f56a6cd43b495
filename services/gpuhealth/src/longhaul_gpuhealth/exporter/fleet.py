"""Pretend GPUs: plausible values with a seeded jitter, and what events do to them. Pure; time is passed in."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache

from longhaul_gpuhealth.exporter.scenario import Behaviour, EventScenario, NodeScenario, Scenario

XID_WINDOW_SECONDS = 300.0
DRIVER_VERSION = "570.133.20"


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the counter list: how the exporter names a field, and how a healthy, busy GPU shows it."""

    name: str
    kind: str
    help: str
    idle: float = 0.0
    busy: float = 0.0
    jitter: float = 0.0
    per_second: float = 0.0
    whole: bool = True


METRICS = (
    Metric("DCGM_FI_DEV_SM_CLOCK", "gauge", "SM clock frequency (in MHz).", 345, 1980, 4),
    Metric("DCGM_FI_DEV_MEM_CLOCK", "gauge", "Memory clock frequency (in MHz).", 2619, 2619),
    Metric("DCGM_FI_DEV_MEMORY_TEMP", "gauge", "Memory temperature (in C).", 40, 64, 1.5),
    Metric("DCGM_FI_DEV_GPU_TEMP", "gauge", "GPU temperature (in C).", 32, 58, 1.5),
    Metric("DCGM_FI_DEV_POWER_USAGE", "gauge", "Power draw (in W).", 71, 652, 12, whole=False),
    Metric("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "counter", "Total energy since boot (in mJ).", per_second=652_000),
    Metric("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "counter", "Total number of PCIe retries."),
    Metric("DCGM_FI_DEV_GPU_UTIL", "gauge", "GPU utilization (in %).", 0, 100, 1.5),
    Metric("DCGM_FI_DEV_MEM_COPY_UTIL", "gauge", "Memory utilization (in %).", 0, 58, 3),
    Metric("DCGM_FI_DEV_ENC_UTIL", "gauge", "Encoder utilization (in %)."),
    Metric("DCGM_FI_DEV_DEC_UTIL", "gauge", "Decoder utilization (in %)."),
    Metric("DCGM_FI_DEV_XID_ERRORS", "gauge", "Value of the last XID error encountered."),
    Metric("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "gauge", "Current clock event reasons (bitmask).", 1, 4),
    Metric("DCGM_FI_DEV_FB_FREE", "gauge", "Framebuffer memory free (in MiB).", 81079, 6823, 40),
    Metric("DCGM_FI_DEV_FB_USED", "gauge", "Framebuffer memory used (in MiB).", 0, 74256, 40),
    Metric("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", "counter", "Total number of single-bit volatile ECC errors."),
    Metric("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "counter", "Total number of double-bit volatile ECC errors."),
    Metric("DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", "counter", "Total number of single-bit persistent ECC errors."),
    Metric("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", "counter", "Total number of double-bit persistent ECC errors."),
    Metric("DCGM_FI_DEV_RETIRED_SBE", "counter", "Total number of pages retired due to single-bit errors."),
    Metric("DCGM_FI_DEV_RETIRED_DBE", "counter", "Total number of pages retired due to double-bit errors."),
    Metric("DCGM_FI_DEV_RETIRED_PENDING", "counter", "Total number of pages pending retirement."),
    Metric("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", "counter", "Rows remapped for uncorrectable errors."),
    Metric("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", "counter", "Rows remapped for correctable errors."),
    Metric("DCGM_FI_DEV_ROW_REMAP_FAILURE", "gauge", "Whether remapping of rows has failed."),
    Metric("DCGM_FI_DEV_ROW_REMAP_PENDING", "gauge", "Whether remapping of rows is pending."),
    Metric(
        "DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", "counter", "Total number of NVLink flow-control CRC errors."
    ),
    Metric("DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL", "counter", "Total number of NVLink data CRC errors."),
    Metric("DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", "counter", "Total number of NVLink retries."),
    Metric("DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", "counter", "Total number of NVLink recovery errors."),
    Metric(
        "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", "counter", "NVLink bandwidth counters of all lanes.", per_second=4.1e5
    ),
    Metric(
        "DCGM_FI_PROF_GR_ENGINE_ACTIVE",
        "gauge",
        "Ratio of time the graphics engine is active.",
        0,
        0.99,
        0.004,
        whole=False,
    ),
    Metric(
        "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
        "gauge",
        "Ratio of cycles the tensor pipe is active.",
        0,
        0.46,
        0.02,
        whole=False,
    ),
    Metric(
        "DCGM_FI_PROF_DRAM_ACTIVE",
        "gauge",
        "Ratio of cycles the memory interface is active.",
        0,
        0.52,
        0.02,
        whole=False,
    ),
    Metric("DCGM_FI_PROF_PCIE_TX_BYTES", "counter", "Bytes sent over PCIe.", per_second=2.2e9),
    Metric("DCGM_FI_PROF_PCIE_RX_BYTES", "counter", "Bytes received over PCIe.", per_second=3.1e9),
)
_XID = "DCGM_FI_DEV_XID_ERRORS"


@dataclass(frozen=True, slots=True)
class Fired:
    """An event that began at `since` seconds after the start."""

    event: EventScenario
    since: float

    def holds(self, now: float) -> bool:
        """Whether it still lasts."""
        if now < self.since or (self.event.lasts is not None and now >= self.since + self.event.lasts):
            return False
        return self.event.flaps is None or int((now - self.since) // self.event.flaps) % 2 == 0

    def meets(self, node: str) -> bool:
        """Whether that node is meant."""
        return fnmatchcase(node, self.event.node)

    def concerns(self, node: str, gpu: int) -> bool:
        """Whether that GPU is meant."""
        return self.event.gpu in (None, gpu) and self.meets(node)


@dataclass(slots=True)
class Fleet:
    """All nodes of a scenario. Times are seconds since the start."""

    scenario: Scenario
    fired: list[Fired] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.fired = [Fired(event, event.at) for event in self.scenario.events if event.at is not None]

    def trigger(self, name: str, now: float) -> bool:
        """Let an event begin now; False when there is none of that name."""
        event = next((one for one in self.scenario.events if one.name == name), None)
        if event is not None:
            self.fired.append(Fired(event, now))
        return event is not None

    def behaviour(self, node: str, now: float) -> Behaviour:
        """How the node's exporter answers now; the newest event decides."""
        current = [one.event.exporter for one in self.fired if one.meets(node) and one.holds(now)]
        return next((one for one in reversed(current) if one is not Behaviour.NORMAL), Behaviour.NORMAL)

    def page(self, node: str, now: float) -> str:
        """What the node's exporter shows now."""
        machine = self.scenario.nodes[node]
        gpus = [gpu for gpu in range(machine.gpus) if not self._is_lost(node, gpu, now)]
        here = [one for one in self.fired if one.meets(node) and one.since <= now]
        driver = next((one.event.driver for one in reversed(here) if one.event.driver), DRIVER_VERSION)
        labels = {gpu: _labels(self.scenario.seed, node, gpu, machine.model, driver) for gpu in gpus}
        values = {gpu: self._values(node, machine, gpu, now) for gpu in gpus}
        lines: list[str] = []
        for metric in METRICS:
            lines += (f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}")
            lines += (f"{metric.name}{{{labels[gpu]}}} {_format(values[gpu][metric.name])}" for gpu in gpus)
        if self.scenario.xid_counter:
            lines += self._xid_counts(node, labels, now)
        holding = [one.event for one in here if one.holds(now)]
        lines += [f"{name} {_format(value)}" for event in holding for name, value in event.node_signals.items()]
        if any(event.duplicate for event in holding):
            lines += [line for line in lines if not line.startswith("#")]
        if skew := sum(event.skew for event in holding):
            stamp = int((now + skew) * 1000)
            lines = [line if line.startswith("#") else f"{line} {stamp}" for line in lines]
        return "\n".join(lines) + "\n"

    def _is_lost(self, node: str, gpu: int, now: float) -> bool:
        return any(one.event.lost and one.concerns(node, gpu) and one.holds(now) for one in self.fired)

    def _values(self, node: str, machine: NodeScenario, gpu: int, now: float) -> Mapping[str, float]:
        load = machine.job_utilization / 100
        noise = random.Random(f"{self.scenario.seed}/{node}/{gpu}/{int(now * 10)}")  # noqa: S311 (pretence)
        swing = math.sin(now / 47 + gpu)
        values: dict[str, float] = {}
        begun = max(
            (one.since for one in self.fired if one.event.restart and one.meets(node) and one.since <= now), default=0.0
        )
        for metric in METRICS:
            if metric.kind == "counter":
                value = float(math.floor(metric.per_second * load * (now - begun)))
            else:
                wander = metric.jitter * (swing + noise.uniform(-0.5, 0.5)) if load else 0.0
                value = metric.idle + (metric.busy - metric.idle) * load + wander
            values[metric.name] = _bounded(metric, value)
        for one in self.fired:
            if not one.concerns(node, gpu) or now < one.since:
                continue
            if one.event.xid is not None and one.since >= begun:
                values[_XID] = one.event.xid  # sticks: the gauge keeps the last code
            ended = one.since + one.event.lasts if one.event.lasts is not None else math.inf
            grown = max(0.0, min(now, ended) - max(one.since, begun))
            for name, rate in one.event.growth.items():
                values[name] = values.get(name, 0.0) + math.ceil(rate * grown)
            if one.holds(now) and one.since >= begun:
                values.update(one.event.signals)
        return values

    def _xid_counts(self, node: str, labels: Mapping[int, str], now: float) -> Iterator[str]:
        name = "DCGM_EXP_XID_ERRORS_COUNT"
        counts: dict[tuple[int, int], int] = {}
        for one in self.fired:
            recent = one.since <= now < one.since + XID_WINDOW_SECONDS
            for gpu in labels:
                if one.event.xid is not None and recent and one.concerns(node, gpu):
                    counts[gpu, one.event.xid] = counts.get((gpu, one.event.xid), 0) + 1
        if counts:
            yield f"# HELP {name} Count of XID Errors within user-specified time window."
            yield f"# TYPE {name} gauge"
        for (gpu, xid), count in sorted(counts.items()):
            yield f'{name}{{{labels[gpu]},window_size_in_ms="{XID_WINDOW_SECONDS * 1000:.0f}",xid="{xid}"}} {count}'


@cache
def _labels(seed: int, node: str, gpu: int, model: str, driver: str) -> str:
    digest = hashlib.blake2b(f"{seed}/{node}/{gpu}".encode(), digest_size=16).hexdigest()
    uuid = f"GPU-{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:]}"
    return (
        f'gpu="{gpu}",UUID="{uuid}",pci_bus_id="00000000:{0x1B + 0x11 * gpu:02X}:00.0",device="nvidia{gpu}",'
        f'modelName="{model}",Hostname="{node}",DCGM_FI_DRIVER_VERSION="{driver}"'
    )


def _bounded(metric: Metric, value: float) -> float:
    if metric.name.endswith("_UTIL"):
        value = min(value, 100.0)
    return float(round(max(value, 0.0))) if metric.whole else max(value, 0.0)


def _format(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.6f}"
