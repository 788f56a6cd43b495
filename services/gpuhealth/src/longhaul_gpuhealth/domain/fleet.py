"""What only all nodes together show: peers of a GPU, and faults that many GPUs share at once."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

GpuKey = tuple[str, int]
REFRESH_SECONDS = 5.0
STALE_SECONDS = 60.0
NORMAL_DEVIATION = 1.4826
"""Standard deviations of a normal distribution in one median absolute deviation."""
LEAST_DEVIATION_SHARE = 0.005
"""Peers that agree to the last digit would make any difference infinite: half a percent counts as one deviation."""


@dataclass(frozen=True, slots=True)
class PeerGroup:
    """Values of the peers of one model, at one moment."""

    time: float
    count: int
    median: float
    deviation: float
    best: float
    best_owner: GpuKey | None


@dataclass(slots=True)
class Peers:
    """Newest values of one signal by model; statistics are made anew every few seconds, not for each GPU."""

    _values: dict[str, dict[GpuKey, tuple[float, float]]] = field(default_factory=dict)
    _groups: dict[str, PeerGroup] = field(default_factory=dict)

    def put(self, model: str, key: GpuKey, value: float | None, time: float) -> None:
        """The newest value of a GPU; None when it does not count now (not busy, not reported)."""
        values = self._values.setdefault(model, {})
        if value is None:
            values.pop(key, None)
        else:
            values[key] = (value, time)

    def group(self, model: str, time: float) -> PeerGroup:
        """Statistics over all GPUs of the model."""
        group = self._groups.get(model)
        if group is None or not 0 <= time - group.time < REFRESH_SECONDS:
            group = self._groups[model] = self._measure(model, time)
        return group

    def _measure(self, model: str, time: float) -> PeerGroup:
        fresh = {
            key: value for key, (value, seen) in self._values.get(model, {}).items() if time - seen < STALE_SECONDS
        }
        if not fresh:
            return PeerGroup(time, 0, 0.0, 0.0, 0.0, None)
        values = np.fromiter(fresh.values(), dtype=np.float64, count=len(fresh))
        median = float(np.median(values))
        spread = NORMAL_DEVIATION * float(np.median(np.abs(values - median)))
        owner = max(fresh, key=lambda key: fresh[key])
        deviation = max(spread, LEAST_DEVIATION_SHARE * abs(median))
        return PeerGroup(time, len(fresh), median, deviation, fresh[owner], owner)


@dataclass(slots=True)
class Crowd:
    """When a rule fired on which GPU, over the last minutes of the whole cluster."""

    kept_seconds: float
    _firings: deque[tuple[float, GpuKey]] = field(default_factory=deque)

    def add(self, time: float, key: GpuKey) -> None:
        """The rule fired on a GPU."""
        self._firings.append((time, key))
        while self._firings and self._firings[0][0] < time - self.kept_seconds:
            self._firings.popleft()

    def size_around(self, time: float, seconds: float) -> int:
        """How many GPUs it fired on within `seconds` of `time`."""
        return len({key for when, key in self._firings if abs(when - time) <= seconds})
