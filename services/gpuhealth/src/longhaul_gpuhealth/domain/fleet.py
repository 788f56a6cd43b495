"""What only all nodes together show: peers of a GPU, and faults that many GPUs share at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from longhaul_gpuhealth.domain.exchange import GroupSummary, Pooled, summarize

GpuKey = tuple[str, int]
REFRESH_SECONDS = 5.0
STALE_SECONDS = 60.0
TOLD_SECONDS = 600.0
"""For how long other replicas are told on how many GPUs a rule fired; they remember it themselves from then on."""
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

    Statistics are made anew every few seconds, not for each GPU, over the values here and the summaries of other
    replicas, by replica.
    """

    others: dict[str, tuple[float, Mapping[str, GroupSummary]]] = field(default_factory=dict)
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

    def forget(self, nodes: Collection[str]) -> None:
        """Drop the values of the GPUs of some nodes."""
        for values in self._values.values():
            for key in [key for key in values if key[0] in nodes]:
                del values[key]

    def forget_stale(self, time: float) -> None:
        """Drop groups that no GPU belongs to any more."""
        for name in [one for one, group in self._groups.items() if time - group.time >= STALE_SECONDS]:
            del self._groups[name]
            self._values.pop(name, None)

    def hear(self, replica: str, groups: Mapping[str, GroupSummary], time: float) -> None:
        """What another replica watches, as of `time`."""
        self.others[replica] = time, groups

    def summaries(self, time: float) -> dict[str, GroupSummary]:
        """What other replicas should know."""
        fresh = {name: self._fresh(name, time) for name in list(self._values)}
        return {name: summarize(values.values()) for name, values in fresh.items() if values}

    def _measure(self, name: str, time: float) -> PeerGroup:
        fresh = self._fresh(name, time)
        self.others = {one: kept for one, kept in self.others.items() if time - kept[0] < STALE_SECONDS}
        pooled = Pooled.of(fresh.values(), [groups[name] for _, groups in self.others.values() if name in groups])
        if not len(pooled.values):
            return PeerGroup(time, 0, 0.0, 0.0, 0.0, None)
        median, best = pooled.median(), float(pooled.values.max())
        spread = NORMAL_DEVIATION * pooled.deviation(median)
        owner = max(fresh, key=lambda key: fresh[key], default=None)
        if owner is not None and fresh[owner] < best:
            owner = None
        deviation = max(spread, LEAST_DEVIATION_SHARE * abs(median))
        return PeerGroup(time, pooled.count, median, deviation, best, owner)

    def _fresh(self, name: str, time: float) -> dict[GpuKey, float]:
        kept = self._values.get(name, {})
        for key in [key for key, (_, seen) in kept.items() if time - seen >= STALE_SECONDS]:
            del kept[key]
        return {key: value for key, (value, _) in kept.items()}


@dataclass(slots=True)
class Crowd:
    """On which GPUs of the whole cluster something fired when, in slots of `width_seconds` over `kept_seconds`.

    `others` says on how many GPUs that other replicas watch, by replica and slot.
    """

    width_seconds: float
    kept_seconds: float
    others: dict[str, dict[int, int]] = field(default_factory=dict)
    _slots: dict[int, set[GpuKey]] = field(default_factory=dict)

    def add(self, time: float, key: GpuKey) -> None:
        """It fired on a GPU."""
        slot = self._slot(time)
        if slot not in self._slots:
            oldest = self._slot(time - self.kept_seconds)
            self._slots = {one: keys for one, keys in self._slots.items() if one >= oldest}
        self._slots.setdefault(slot, set()).add(key)

    def hear(self, replica: str, slots: Mapping[int, int], time: float) -> None:
        """On how many GPUs it fired at another replica."""
        oldest = self._slot(time - self.kept_seconds)
        known = {**self.others.get(replica, {}), **slots}
        self.others[replica] = {slot: gpus for slot, gpus in known.items() if slot >= oldest}

    def summary(self, time: float) -> dict[int, int]:
        """What other replicas should know."""
        oldest = self._slot(time - TOLD_SECONDS)
        return {slot: len(keys) for slot, keys in self._slots.items() if slot >= oldest}

    def shared(self, time: float, gpus: int) -> bool:
        """Whether it fired on that many GPUs at about `time`; costs no more than `gpus` steps."""
        slot = self._slot(time)
        slots = (slot - 1, slot, slot + 1)
        near = [self._slots.get(one, set()) for one in slots]
        elsewhere = sum(max(known.get(one, 0) for one in slots) for known in self.others.values())
        return any(len(keys) + elsewhere >= gpus for keys in near) or len(set().union(*near)) + elsewhere >= gpus

    def _slot(self, time: float) -> int:
        return int(time // self.width_seconds)
