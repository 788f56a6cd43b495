"""What only all nodes together show: peers of a GPU, and faults that many GPUs share at once."""

from __future__ import annotations

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
    """Values of one group of peers, at one moment."""

    time: float
    count: int
    median: float
    deviation: float
    best: float
    best_owner: GpuKey | None


@dataclass(slots=True)
class Peers:
    """Newest values of one signal by group (a model, or a run and a model).

    Statistics are made anew every few seconds, not for each GPU.
    """

    _values: dict[str, dict[GpuKey, tuple[float, float]]] = field(default_factory=dict)
    _groups: dict[str, PeerGroup] = field(default_factory=dict)

    def put(self, name: str, key: GpuKey, value: float | None, time: float) -> None:
        """The newest value of a GPU; None when it does not count now (not busy, not reported)."""
        values = self._values.setdefault(name, {})
        if value is None:
            values.pop(key, None)
        else:
            values[key] = (value, time)

    def group(self, name: str, time: float) -> PeerGroup:
        """Statistics over all GPUs of the group."""
        group = self._groups.get(name)
        if group is None or not 0 <= time - group.time < REFRESH_SECONDS:
            group = self._groups[name] = self._measure(name, time)
        return group

    def forget_stale(self, time: float) -> None:
        """Drop groups that no GPU belongs to any more."""
        for name in [one for one, group in self._groups.items() if time - group.time >= STALE_SECONDS]:
            del self._groups[name]
            self._values.pop(name, None)

    def _measure(self, name: str, time: float) -> PeerGroup:
        kept = self._values.get(name, {})
        for key in [key for key, (_, seen) in kept.items() if time - seen >= STALE_SECONDS]:
            del kept[key]
        fresh = {key: value for key, (value, _) in kept.items()}
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
    """On which GPUs of the whole cluster something fired when, in slots of `width_seconds` over `kept_seconds`."""

    width_seconds: float
    kept_seconds: float
    _slots: dict[int, set[GpuKey]] = field(default_factory=dict)

    def add(self, time: float, key: GpuKey) -> None:
        """It fired on a GPU."""
        slot = self._slot(time)
        if slot not in self._slots:
            oldest = self._slot(time - self.kept_seconds)
            self._slots = {one: keys for one, keys in self._slots.items() if one >= oldest}
        self._slots.setdefault(slot, set()).add(key)

    def shared(self, time: float, gpus: int) -> bool:
        """Whether it fired on that many GPUs at about `time`; costs no more than `gpus` steps."""
        slot = self._slot(time)
        near = [self._slots.get(one, set()) for one in (slot - 1, slot, slot + 1)]
        return any(len(keys) >= gpus for keys in near) or len(set().union(*near)) >= gpus

    def _slot(self, time: float) -> int:
        return int(time // self.width_seconds)
