"""Where a run's wall-clock time went: productive and preserved steps against the rest.

Time in states is counted here; inside the stepping states, data wait, checkpoint stalls and replayed steps are
reported by the workers and taken out of the productive time. A step that was lost and made again counts once, its
second making is replay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from longhaul_training.domain.states import RunState, TimeSpent

_FIELDS = {
    RunState.QUEUED: "queued",
    RunState.WAITING_FOR_INPUTS: "queued",
    RunState.ADMITTED: "startup",
    RunState.PREFLIGHT: "startup",
    RunState.RENDEZVOUS: "startup",
    RunState.RUNNING: "stepping",
    RunState.SUSPECT: "stepping",
    RunState.RECOVERING: "recovery",
    RunState.PAUSED: "paused",
}


@dataclass(frozen=True, slots=True)
class WorkerTime:
    """Seconds inside the stepping states that workers reported as something other than productive."""

    data_wait: float = 0.0
    checkpoint: float = 0.0
    replay: float = 0.0


@dataclass(frozen=True, slots=True)
class TimeLedger:
    """Seconds by use; `goodput` is productive over everything but queued and paused."""

    productive: float
    startup: float
    data_wait: float
    checkpoint: float
    recovery: float
    replay: float
    paused: float
    queued: float

    @property
    def goodput(self) -> float:
        """Between 0 and 1; 0 before anything was used."""
        used = self.productive + self.startup + self.data_wait + self.checkpoint + self.recovery + self.replay
        return self.productive / used if used > 0 else 0.0


def spend(time: TimeSpent, state: RunState, now: float) -> TimeSpent:
    """Books the time since the last booking under `state`; a clock that went back books nothing."""
    elapsed = max(0.0, now - time.until)
    field = _FIELDS.get(state)
    if field is None:
        return replace(time, until=now)
    return replace(time, until=now, **{field: getattr(time, field) + elapsed})


def ledger(time: TimeSpent, state: RunState, workers: WorkerTime, now: float) -> TimeLedger:
    """The ledger as of `now`."""
    spent = spend(time, state, now)
    lost = workers.data_wait + workers.checkpoint + workers.replay
    return TimeLedger(
        productive=max(0.0, spent.stepping - lost),
        startup=spent.startup,
        data_wait=workers.data_wait,
        checkpoint=workers.checkpoint,
        recovery=spent.recovery,
        replay=workers.replay,
        paused=spent.paused,
        queued=spent.queued,
    )
