"""Which node a pod goes to. GPUs are counted from claims, so that none is used twice.

A claim is a slot that the database says is placed, or a pod that the cluster shows and that has not ended; the larger
of both counts. A pod on an unreachable node still has its GPUs. Cost: linear in nodes and claims for building,
O(nodes log nodes) for a gang.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Claim:
    """GPUs of a node that belong to a pod, by the pod's name: the same pod seen twice counts once."""

    pod: str
    node: str
    gpus: int


@dataclass(frozen=True, slots=True)
class NodeCapacity:
    """A node that may take pods."""

    name: str
    gpus: int
    pool: str = ""


@dataclass(frozen=True, slots=True)
class SpareDemand:
    """Nodes with `gpus` free GPUs each that are kept for a run that is training; those in `shunned` would not do."""

    owner: str
    count: int
    gpus: int
    shunned: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Capacity:
    """Free GPUs of each node that is ready and may be scheduled on, and what is kept as spares.

    `allowed` are the nodes that a certain run may use, None: all. `groups` are the racks, or whatever its nodes must
    have in common: nodes without a group are then not used. `whole` are all GPUs of each node, taken or not; `crowd`
    is how many pods without GPUs it has.
    """

    free: Mapping[str, int] = field(default_factory=dict)
    pools: Mapping[str, str] = field(default_factory=dict)
    spares: tuple[SpareDemand, ...] = ()
    allowed: frozenset[str] | None = None
    groups: Mapping[str, str] | None = None
    whole: Mapping[str, int] = field(default_factory=dict)
    crowd: Mapping[str, int] = field(default_factory=dict)

    @property
    def total_free(self) -> int:
        """Free GPUs over all nodes."""
        return sum(self.free.values())

    def without(self, nodes: Iterable[str], gpus: int) -> Capacity:
        """Capacity after a pod of `gpus` GPUs was put on each of `nodes`; a node may be named more than once."""
        free = dict(self.free)
        for node in nodes:
            free[node] = free.get(node, 0) - gpus
        return replace(self, free=free)

    def keeping_spares_of(self, others_than: str) -> Capacity:
        """Capacity of which the spare demands of the run `others_than` are its own to use."""
        return replace(self, spares=tuple(s for s in self.spares if s.owner != others_than))

    def excluding(self, nodes: frozenset[str]) -> Capacity:
        """Capacity of which `nodes` may not be used; what is free on them still counts for the spares of others."""
        if not nodes:
            return self
        allowed = frozenset(self.free) if self.allowed is None else self.allowed
        return replace(self, allowed=allowed - nodes)

    def in_group_of(self, nodes: Iterable[str]) -> Capacity:
        """Capacity in the groups that `nodes` are in already; with no such node, or no groups, all of it."""
        if self.groups is None:
            return self
        groups = self.groups
        taken = {groups[node] for node in nodes if node in groups}
        return replace(self, groups={n: g for n, g in groups.items() if g in taken}) if taken else self


def capacity_of(nodes: Iterable[NodeCapacity], claims: Iterable[Claim], spares: Iterable[SpareDemand] = ()) -> Capacity:
    """Subtracts claims from nodes; claims on nodes that can't take pods are ignored, they free nothing."""
    by_pod: dict[str, Claim] = {}
    for claim in claims:
        known = by_pod.get(claim.pod)
        if known is None or claim.gpus > known.gpus:
            by_pod[claim.pod] = claim
    node_list = list(nodes)
    free = {node.name: node.gpus for node in node_list}
    for claim in by_pod.values():
        if claim.node in free:
            free[claim.node] -= claim.gpus
    whole = {node.name: node.gpus for node in node_list}
    crowd = Counter(claim.node for claim in by_pod.values() if not claim.gpus)
    return Capacity(free, {node.name: node.pool for node in node_list}, tuple(spares), whole=whole, crowd=crowd)


def place(
    capacity: Capacity, pods: int, gpus: int, *, pool: str = "", avoid: Iterable[str] = (), prefer: Iterable[str] = ()
) -> tuple[str, ...] | None:
    """Nodes for `pods` pods of `gpus` GPUs each, all or none; no spare demand of others loses its nodes by it.

    Nodes of their own come first, then the fullest that fit, then by name: deterministic. A pod without GPUs goes where
    fewest of its kind are. Avoided nodes are taken only when nothing else fits. With groups, all nodes are of one: the
    one with the least room to spare.
    """
    avoided, preferred = frozenset(avoid), frozenset(prefer)
    kept = len(spares_that_fit(capacity))
    for excluded in (avoided, frozenset[str]()) if avoided else (avoided,):
        for usable in _alternatives(capacity):
            chosen = _choose(usable, pods, gpus, pool, excluded, preferred)
            if chosen is not None and len(spares_that_fit(capacity.without(chosen, gpus))) >= kept:
                return chosen
    return None


def _alternatives(capacity: Capacity) -> Iterator[Capacity]:
    """The sets of nodes that a gang may be placed on, the smallest first."""
    if capacity.groups is None:
        yield capacity
        return
    members: dict[str, set[str]] = {}
    for node, group in capacity.groups.items():
        if node in capacity.free and (capacity.allowed is None or node in capacity.allowed):
            members.setdefault(group, set()).add(node)
    for _, nodes in sorted(members.items(), key=lambda item: (sum(capacity.free[n] for n in item[1]), item[0])):
        yield replace(capacity, allowed=frozenset(nodes))


def spares_that_fit(capacity: Capacity) -> list[int]:
    """GPUs of each of the spares asked for that there is room for, all at once (largest and choosiest first)."""
    remaining, fit = dict(capacity.free), list[int]()
    for demand in sorted(capacity.spares, key=lambda d: (-d.gpus, -len(d.shunned))):
        for _ in range(demand.count):
            fitting = [name for name, free in remaining.items() if free >= demand.gpus and name not in demand.shunned]
            if not fitting:
                break
            best = min(fitting, key=lambda name: (remaining[name], name))
            remaining[best] -= demand.gpus
            fit.append(demand.gpus)
    return fit


def _choose(
    capacity: Capacity, pods: int, gpus: int, pool: str, excluded: frozenset[str], preferred: frozenset[str]
) -> tuple[str, ...] | None:
    remaining = {
        name: free
        for name, free in capacity.free.items()
        if name not in excluded
        and free >= gpus
        and (not pool or capacity.pools.get(name) == pool)
        and (capacity.allowed is None or name in capacity.allowed)
    }
    crowd: Mapping[str, int] = {} if gpus else capacity.crowd
    order = sorted(remaining, key=lambda name: (name not in preferred, crowd.get(name, 0), remaining[name], name))
    chosen = order[:pods]
    for name in order:
        room = (remaining[name] - gpus) // gpus if gpus else 0
        chosen += [name] * max(0, min(room, pods - len(chosen)))
    return tuple(chosen) if len(chosen) == pods else None
