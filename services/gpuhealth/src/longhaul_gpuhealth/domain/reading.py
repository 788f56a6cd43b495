"""From a page of series to the signals of a node's GPUs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from longhaul_gpuhealth.domain.exposition import Page, Series
from longhaul_gpuhealth.domain.model import NODE_LEVEL

XID_GAUGE = "DCGM_FI_DEV_XID_ERRORS"
XID_COUNT = "DCGM_EXP_XID_ERRORS_COUNT"

MAIN_SIGNALS: Mapping[str, str] = {
    "DCGM_FI_DEV_GPU_TEMP": "temperature_celsius",
    "DCGM_FI_DEV_POWER_USAGE": "power_watts",
    "DCGM_FI_DEV_GPU_UTIL": "utilization_percent",
    "DCGM_FI_DEV_SM_CLOCK": "sm_clock_mhz",
    XID_GAUGE: "xid",
}
"""Signals that a person sees, by the name under which they see them."""

_BLANKS = ((0x7FFFFFF0, 0x7FFFFFF4), (2.0**63, 2.0**63))
"""DCGM_INT32_BLANK, DCGM_INT64_BLANK and up to their NOT_PERMISSIONED (dcgm_structs.h);
the latter four are one number as floats."""


@dataclass(slots=True)
class GpuReading:
    """Signals of one GPU at one scrape; `xid_counts` is the windowed count by code, None where there is none."""

    uuid: str = ""
    model: str = ""
    signals: dict[str, float] = field(default_factory=dict)
    xid_counts: dict[int, float] | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """All GPUs of one node at one scrape; index -1 holds what the node's exporters say of the node as a whole."""

    node: str
    time: float
    gpus: Mapping[int, GpuReading]
    unattributed: int = 0


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
    _series: tuple[Series, ...] = ()
    _places: tuple[_Place, ...] = ()
    _identities: dict[int, tuple[str, str]] = field(default_factory=dict)
    _counted: bool = False
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
            index: GpuReading(uuid, model, xid_counts={} if self._counted and index != NODE_LEVEL else None)
            for index, (uuid, model) in self._identities.items()
        }
        for place in self._places:
            value = values[place.position]
            if _is_blank(value):
                continue
            gpu = gpus[place.gpu]
            if place.xid is not None and gpu.xid_counts is not None:
                gpu.xid_counts[place.xid] = max(value, gpu.xid_counts.get(place.xid, 0.0))
                continue
            earlier = gpu.signals.get(place.signal)
            if earlier is None or value > earlier:
                gpu.signals[place.signal] = value
        return Reading(node, time, gpus, self._unattributed)

    def _learn(self, series: tuple[Series, ...]) -> None:
        places: list[_Place] = []
        identities: dict[int, tuple[str, str]] = {}
        unattributed = 0
        for position, one in enumerate(series):
            if one.name not in self.wanted:
                continue
            gpu = _gpu_index(one)
            xid = _xid(one)
            if gpu is None or (one.name == XID_COUNT and xid is None):
                unattributed += 1
                continue
            uuid, model = identities.get(gpu, ("", ""))
            identities[gpu] = (uuid or one.labels.get("UUID", ""), model or one.labels.get("modelName", ""))
            places.append(_Place(position, gpu, one.name, xid))
        self._series, self._places, self._identities = series, tuple(places), identities
        self._counted = any(one.name == XID_COUNT for one in series)
        self._unattributed = unattributed


def _is_blank(value: float) -> bool:
    return not math.isfinite(value) or any(low <= value <= high for low, high in _BLANKS)


def _gpu_index(series: Series) -> int | None:
    """Index of the GPU; -1 for series of the node; None when the label is no index."""
    text = series.labels.get("gpu")
    if text is None:
        return None if series.name.startswith("DCGM_") else NODE_LEVEL
    return int(text) if text.isdecimal() else None


def _xid(series: Series) -> int | None:
    if series.name != XID_COUNT:
        return None
    text = series.labels.get("xid", "")
    return int(text) if text.isdecimal() else None
