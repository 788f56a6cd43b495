"""The quarantine budget: neither a bad rule nor a bad exporter ever takes the cluster out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import floor

BREAKER_MINIMUM_NODES = 3
"""Fewer nodes than this are no storm, whatever their share of a small cluster."""


class Refusal(StrEnum):
    """Why a node may not be taken out now."""

    BUDGET_EXHAUSTED = "BUDGET_EXHAUSTED"
    BREAKER_OPEN = "BREAKER_OPEN"
    POOL_EXHAUSTED = "POOL_EXHAUSTED"
    SETTLING = "SETTLING"


@dataclass(frozen=True, slots=True)
class BudgetPolicy:
    """Limits as shares of all nodes, and of the nodes of one pool.

    `minimum_nodes` may always go in a window, or small clusters never heal.
    """

    window_seconds: float = 300.0
    window_share: float = 0.2
    total_share: float = 0.4
    breaker_share: float = 0.5
    minimum_nodes: int = 1
    pool_window_share: float = 0.34
    pool_total_share: float = 0.5

    def limit_in_window(self, nodes: int) -> int:
        """How many nodes may be taken out within one window."""
        return max(self.minimum_nodes, floor(self.window_share * nodes))

    def limit_in_total(self, nodes: int) -> int:
        """How many nodes may be out at once."""
        return max(self.minimum_nodes, floor(self.total_share * nodes))


@dataclass(frozen=True, slots=True)
class Fleet:
    """How many nodes there are, and how many of them in the pool of the node that is asked for."""

    nodes: int
    pool: str = ""
    pool_nodes: int = 0


def fleet_around(pool: str, pools: Iterable[str]) -> Fleet:
    """The fleet for a node of `pool`, given the pools of all nodes."""
    known = list(pools)
    return Fleet(len(known), pool, known.count(pool))


@dataclass(frozen=True, slots=True)
class Demand:
    """A node that was to be taken out, when first, and since when it is (None: it waits)."""

    node: str
    asked_at: float
    granted_at: float | None = None
    pool: str = ""


@dataclass(frozen=True, slots=True)
class Budget:
    """What was asked and granted lately, and which nodes are out; persisted, so that a restart forgets nothing.

    `pools` names the pool of each node that is out and has one.
    """

    demands: tuple[Demand, ...] = ()
    out: tuple[str, ...] = ()
    breaker_opened_at: float | None = None
    pools: Mapping[str, str] = field(default_factory=dict)

    @property
    def waiting(self) -> tuple[str, ...]:
        """Nodes whose quarantine waits, in the order in which they asked."""
        return tuple(demand.node for demand in self.demands if demand.granted_at is None)

    def granted_in_window(self, policy: BudgetPolicy, now: float) -> int:
        """Nodes taken out within the window that ends now."""
        start = now - policy.window_seconds
        return sum(demand.granted_at is not None and demand.granted_at > start for demand in self.demands)

    def ask(
        self, policy: BudgetPolicy, node: str, fleet: Fleet, now: float, *, force: bool = False, settling: bool = False
    ) -> tuple[Budget, Refusal | None]:
        """Ask for one node: the budget afterwards, and why not, if not. Asking again is idempotent.

        While things are `settling` nothing is granted, but the demand counts: a storm opens the breaker before the
        first node of it is out.
        """
        if node in self.out:
            return self, None
        budget = self._without_old(policy, now)
        earlier = next((one for one in budget.demands if one.node == node), None)
        asked = earlier if earlier and earlier.granted_at is None else Demand(node, now, pool=fleet.pool)
        others = tuple(one for one in budget.demands if one.node != node or one.granted_at is not None)
        budget = replace(budget, demands=(*others, asked))
        if budget.breaker_opened_at is None and budget._is_storm(policy, fleet.nodes, now):
            budget = replace(budget, breaker_opened_at=now)
        refusal = None if force else budget._refusal(policy, fleet, now)
        if refusal is None and settling:
            refusal = Refusal.SETTLING
        if refusal is not None:
            return budget, refusal
        granted = replace(asked, granted_at=now)
        out = tuple(sorted({*budget.out, node}))
        pools = {**budget.pools, node: fleet.pool} if fleet.pool else budget.pools
        return replace(budget, demands=(*others, granted), out=out, pools=pools), None

    def withdraw(self, node: str) -> Budget:
        """The node need not be taken out any more, or is back; what it used of the window stays used."""
        demands = tuple(one for one in self.demands if one.node != node or one.granted_at is not None)
        pools = {name: pool for name, pool in self.pools.items() if name != node}
        return replace(self, demands=demands, out=tuple(one for one in self.out if one != node), pools=pools)

    def reset_breaker(self) -> Budget:
        """Close the breaker, and start a new window so that it does not open again at once for the same nodes."""
        return replace(self, demands=(), breaker_opened_at=None)

    def _refusal(self, policy: BudgetPolicy, fleet: Fleet, now: float) -> Refusal | None:
        if self.breaker_opened_at is not None:
            return Refusal.BREAKER_OPEN
        exhausted = self.granted_in_window(policy, now) >= policy.limit_in_window(fleet.nodes)
        if exhausted or len(self.out) >= policy.limit_in_total(fleet.nodes):
            return Refusal.BUDGET_EXHAUSTED
        return self._pool_refusal(policy, fleet, now) if fleet.pool else None

    def _pool_refusal(self, policy: BudgetPolicy, fleet: Fleet, now: float) -> Refusal | None:
        start = now - policy.window_seconds
        granted = sum(one.pool == fleet.pool and (one.granted_at or start) > start for one in self.demands)
        out = sum(pool == fleet.pool for pool in self.pools.values())
        most = max(policy.minimum_nodes, floor(policy.pool_window_share * fleet.pool_nodes))
        most_out = max(policy.minimum_nodes, floor(policy.pool_total_share * fleet.pool_nodes))
        return Refusal.POOL_EXHAUSTED if granted >= most or out >= most_out else None

    def _is_storm(self, policy: BudgetPolicy, nodes: int, now: float) -> bool:
        start = now - policy.window_seconds
        asked = {one.node for one in self.demands if one.asked_at > start or (one.granted_at or 0.0) > start}
        return len(asked) >= BREAKER_MINIMUM_NODES and len(asked) > policy.breaker_share * nodes

    def _without_old(self, policy: BudgetPolicy, now: float) -> Budget:
        start = now - policy.window_seconds
        return replace(
            self, demands=tuple(one for one in self.demands if one.granted_at is None or one.granted_at > start)
        )
