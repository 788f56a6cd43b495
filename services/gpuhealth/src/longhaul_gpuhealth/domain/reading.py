"""From a page of series to the signals of a node's GPUs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from longhaul_gpuhealth.domain.exposition import Page, Series
from longhaul_gpuhealth.domain.model import NODE_LEVEL

XID_GAUGE = "DCGM_FI_DEV_XID_ERRORS"
XID_COUNT = "DCGM_EXP_XID_ERRORS_COUNT"
XID_KERNEL = "LONGHAUL_KERNEL_XID_TOTAL"
KERNEL_UP = "LONGHAUL_KERNEL_LOG_UP"
DRIVER_LABEL = "DCGM_FI_DRIVER_VERSION"

MAIN_SIGNALS: Mapping[str, str] = {
    "DCGM_FI_DEV_GPU_TEMP": "temperature_celsius",
    "DCGM_FI_DEV_POWER_USAGE": "power_watts",
    "DCGM_FI_DEV_GPU_UTIL": "utilization_percent",
    "DCGM_FI_DEV_SM_CLOCK": "sm_clock_mhz",
    XID_GAUGE: "xid",
}
"""Signals that a person sees, by the name under which they see them."""

_BY_CODE = frozenset({XID_COUNT, XID_KERNEL})
_BLANKS = ((0x7FFFFFF0, 0x7FFFFFF4), (2.0**63, 2.0**63))
"""DCGM_INT32_BLANK, DCGM_INT64_BLANK and up to their NOT_PERMISSIONED (dcgm_structs.h);
the latter four are one number as floats."""


@dataclass(slots=True)
class GpuReading:
    """Signals of one GPU at one scrape.

    `xid_counts` is the windowed count by code, `kernel_xids` the count by code since the machine's start; None where
    there is none. `pod` is namespace and name as the exporter tells them.
    """

    uuid: str = ""
    model: str = ""
    signals: dict[str, float] = field(default_factory=dict)
    xid_counts: dict[int, float] | None = None
    kernel_xids: dict[int, float] | None = None
    pod: tuple[str, str] | None = None

    def absorb(self, other: GpuReading) -> None:
        """Take what another exporter of the node says of the same GPU."""
        self.uuid, self.model = self.uuid or other.uuid, self.model or other.model
        self.signals.update(other.signals)
        self.xid_counts = other.xid_counts if self.xid_counts is None else self.xid_counts
        self.kernel_xids = other.kernel_xids if self.kernel_xids is None else self.kernel_xids
        self.pod = self.pod or other.pod


@dataclass(frozen=True, slots=True)
class Reading:
    """All GPUs of one node at one scrape; index -1 holds what the node's exporters say of the node as a whole."""

    node: str
    time: float
    gpus: Mapping[int, GpuReading]
    unattributed: int = 0
    driver: str = ""
    kernel_log: bool = False

    @property
    def has_gpus(self) -> bool:
        """Whether it shows any GPU."""
        return any(index != NODE_LEVEL for index in self.gpus)

    def with_other(self, other: Reading) -> Reading:
        """Together with what another exporter of the same node says."""
        gpus = dict(self.gpus)
        for index, gpu in other.gpus.items():
            if index in gpus:
                gpus[index].absorb(gpu)
            else:
                gpus[index] = gpu
        kernel = self.kernel_log or other.kernel_log
        for index, one in gpus.items():
            if kernel and one.kernel_xids is None and index != NODE_LEVEL:
                one.kernel_xids = {}
        unattributed = self.unattributed + other.unattributed
        return Reading(self.node, self.time, gpus, unattributed, self.driver or other.driver, kernel)


@dataclass(slots=True)
class _Identity:
    uuid: str = ""
    model: str = ""
    pod: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    position: int
    gpu: int
    signal: str
    xid: int | None


@dataclass(slots=True)
class Attribution:
    """Knows where in the pages of one exporter the wanted signals are; learnt again when the layout changes."""

    wanted: frozenset[str]
    by_pci: dict[str, int] = field(default_factory=dict)
    _series: tuple[Series, ...] = ()
    _places: tuple[_Place, ...] = ()
    _identities: dict[int, _Identity] = field(default_factory=dict)
    _counted: bool = False
    _kernel: bool = False
    _driver: str = ""
    _unattributed: int = 0

    def attribute(self, node: str, time: float, page: Page) -> Reading:
        """The signals of each GPU. What DCGM writes for "no value" is left out.

        Where several series speak of one signal of one GPU (MIG slices, a GPU listed twice) the greatest value counts,
        since all signals that rules watch are worse when greater.
        """
        if page.series is not self._series:
            self._learn(page.series)
        values = page.values
        gpus = {
            index: GpuReading(
                one.uuid,
                one.model,
                xid_counts={} if self._counted and index != NODE_LEVEL else None,
                kernel_xids={} if self._kernel and index != NODE_LEVEL else None,
                pod=one.pod,
            )
            for index, one in self._identities.items()
        }
        for place in self._places:
            value = values[place.position]
            if _is_blank(value):
                continue
            gpu = gpus[place.gpu]
            if place.xid is not None:
                counts = gpu.kernel_xids if place.signal == XID_KERNEL else gpu.xid_counts
                if counts is not None:
                    counts[place.xid] = max(value, counts.get(place.xid, 0.0))
                continue
            earlier = gpu.signals.get(place.signal)
            if earlier is None or value > earlier:
                gpu.signals[place.signal] = value
        return Reading(node, time, gpus, self._unattributed, self._driver, self._kernel)

    def _learn(self, series: tuple[Series, ...]) -> None:
        places: list[_Place] = []
        identities: dict[int, _Identity] = {}
        unattributed = 0
        for one in series:
            pci, index = _pci(one), one.labels.get("gpu", "")
            if pci and index.isdecimal():
                self.by_pci[pci] = int(index)
        for position, one in enumerate(series):
            if one.name not in self.wanted:
                continue
            gpu = _gpu_index(one, self.by_pci)
            xid = _xid(one)
            if gpu is None or (one.name in _BY_CODE and xid is None):
                unattributed += 1
                continue
            known = identities.setdefault(gpu, _Identity())
            known.uuid = known.uuid or one.labels.get("UUID", "")
            known.model = known.model or one.labels.get("modelName", "")
            known.pod = known.pod or _pod(one)
            places.append(_Place(position, gpu, one.name, xid))
        self._series, self._places, self._identities = series, tuple(places), identities
        names = {one.name for one in series}
        self._counted, self._kernel = XID_COUNT in names, XID_KERNEL in names or KERNEL_UP in names
        self._driver = next((one.labels[DRIVER_LABEL] for one in series if DRIVER_LABEL in one.labels), "")
        self._unattributed = unattributed


def _is_blank(value: float) -> bool:
    return not math.isfinite(value) or any(low <= value <= high for low, high in _BLANKS)


def _gpu_index(series: Series, by_pci: Mapping[str, int]) -> int | None:
    """Index of the GPU; -1 for series of the node; None when the labels name none."""
    text = series.labels.get("gpu")
    if text is not None:
        return int(text) if text.isdecimal() else None
    if pci := _pci(series):
        return by_pci.get(pci)
    return None if series.name.startswith("DCGM_") else NODE_LEVEL


def _pci(series: Series) -> str:
    """Bus address as both sides write it: the kernel has four digits of domain and no function."""
    text = series.labels.get("pci_bus_id", "").lower()
    domain, colon, rest = text.partition(":")
    return f"{domain.lstrip('0') or '0'}:{rest.partition('.')[0]}" if colon else ""


def _pod(series: Series) -> tuple[str, str] | None:
    pod = series.labels.get("pod") or series.labels.get("exported_pod", "")
    namespace = series.labels.get("namespace") or series.labels.get("exported_namespace", "")
    return (namespace, pod) if pod else None


def _xid(series: Series) -> int | None:
    if series.name not in _BY_CODE:
        return None
    text = series.labels.get("xid", "")
    return int(text) if text.isdecimal() else None
