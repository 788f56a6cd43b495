"""Ranks that are slower at their own work than their peers, from the heartbeats.

All ranks of a synchronous run make the same steps at the same pace: a slow one shows only in the time that each spends
on its own work, not in the time it waits for the others. Score: the peers' median over the rank's own time.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from longhaul_training.domain.observations import AgentView, StragglerView
from longhaul_training.domain.states import Run, RunState


@dataclass(slots=True)
class StragglerWatch:
    """Since when a rank of each run has been slow; forgotten with the process, and seen again soon after."""

    since: dict[str, tuple[int, float]] = field(default_factory=dict)

    def observe(
        self, run: Run, agents: Mapping[str, AgentView], now: float, least_score: float
    ) -> StragglerView | None:
        """The rank that is below `least_score` now, and for how long it has been."""
        slowest = _slowest(run, agents) if run.control.state is RunState.RUNNING else None
        if slowest is None or slowest[2] >= least_score:
            self.since.pop(run.uid, None)
            return None
        rank, pod, score = slowest
        known = self.since.get(run.uid)
        if known is None or known[0] != rank:
            known = self.since[run.uid] = (rank, now)
        return StragglerView(rank, pod, score, now - known[1])

    def keep_only(self, runs: Iterable[str]) -> None:
        """Forgets runs that are over."""
        wanted = frozenset(runs)
        for uid in [uid for uid in self.since if uid not in wanted]:
            del self.since[uid]


def _slowest(run: Run, agents: Mapping[str, AgentView]) -> tuple[int, str, float] | None:
    epoch = run.control.epoch
    own = [
        (worker.own_seconds, worker.rank, agent.pod)
        for agent in agents.values()
        if agent.epoch == epoch
        for worker in agent.workers
        if worker.own_seconds > 0.0
    ]
    if len(own) < 2:
        return None
    seconds, rank, pod = max(own)
    peers = statistics.median(value for value, other, _ in own if other != rank)
    return rank, pod, peers / seconds
