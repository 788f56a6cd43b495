"""Incidents: one fault and what its repair took, split so that published totals can be compared.

detect = fault -> detection; restart = detection -> workers of the new epoch started; restore = started -> state
restored and stepping; replay = first step -> the step that the fault had interrupted is made again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from longhaul_training.domain.faults import Fault
from longhaul_training.domain.states import Incident, RecoveryAction

KEPT_INCIDENTS = 200


@dataclass(frozen=True, slots=True)
class RepairTimes:
    """Seconds of one repair; what has not happened yet is 0."""

    detect: float
    restart: float
    restore: float
    replay: float

    @property
    def to_first_step(self) -> float:
        """From the fault to stepping again."""
        return self.detect + self.restart + self.restore


def open_incident(
    incidents: tuple[Incident, ...], fault: Fault, action: RecoveryAction, epoch: int, step: int, now: float
) -> tuple[Incident, ...]:
    """Appends an incident; one that is still open is widened instead, since its repair was interrupted."""
    last = incidents[-1] if incidents else None
    if last is not None and last.recovered_at is None and last.restored_at is None:
        widened = replace(
            last,
            action=action,
            epoch=epoch,
            node=fault.node or last.node,
            message=f"{last.message}; then {fault.message}" if fault.message not in last.message else last.message,
            started_at=None,
        )
        return (*incidents[:-1], widened)
    if last is not None and last.recovered_at is None:
        # Hit again while making lost steps again: those are still to be made.
        step = max(step, last.fault_step)
        incidents = (*incidents[:-1], replace(last, recovered_at=now))
    opened = Incident(
        number=(last.number if last else 0) + 1,
        cause=fault.cause.name,
        message=fault.message,
        action=action,
        node=fault.node,
        epoch=epoch,
        fault_step=step,
        fault_at=min(fault.at, now),
        detected_at=now,
    )
    return (*incidents, opened)[-KEPT_INCIDENTS:]


def amend_last(incidents: tuple[Incident, ...], **changes: float | int | str | None) -> tuple[Incident, ...]:
    """Sets fields of the last incident."""
    return (*incidents[:-1], replace(incidents[-1], **changes))  # type: ignore[arg-type]


def repair_times(incident: Incident, now: float) -> RepairTimes:
    """The split of an incident; a stage that is under way counts up to `now`."""
    started = incident.started_at
    restored = incident.restored_at
    end = incident.recovered_at
    return RepairTimes(
        detect=max(0.0, incident.detected_at - incident.fault_at),
        restart=max(0.0, (started or restored or now) - incident.detected_at),
        restore=max(0.0, (restored or now) - started) if started is not None else 0.0,
        replay=max(0.0, (end or now) - restored) if restored is not None else 0.0,
    )
