"""What a user may ask of a run, in which state. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from longhaul_core.errors import FailedPrecondition

from longhaul_training.domain.states import Desired, Run, RunState, Wish

Verb = Callable[[Run], Desired]


def cancel(run: Run) -> Desired:
    """Wanted for ever; a terminal run is left alone."""
    return run.desired if run.control.state.terminal else replace(run.desired, wish=Wish.CANCEL)


def pause(run: Run) -> Desired:
    """Refused for runs that are over or being cancelled."""
    _refuse_ended(run, "paused")
    return replace(run.desired, wish=Wish.PAUSE)


def resume(run: Run) -> Desired:
    """Takes a pause back."""
    _refuse_ended(run, "resumed")
    return replace(run.desired, wish=Wish.RUN)


def retry(run: Run) -> Desired:
    """Lets a failed run go on; asking again before it has begun changes nothing."""
    if run.control.state is not RunState.FAILED:
        raise FailedPrecondition(
            f"{run.name} is {run.control.state.value.lower()}: only a failed run can be tried again",
            reason="NOT_FAILED",
            metadata={"state": run.control.state.value},
        )
    return replace(run.desired, wish=Wish.RUN, attempt=run.control.attempt + 1)


def resize(nodes: int) -> Verb:
    """Another number of nodes, from the next time the run is admitted on."""

    def verb(run: Run) -> Desired:
        if run.control.state is not RunState.PAUSED:
            raise FailedPrecondition(
                f"{run.name} is {run.control.state.value.lower()}: the number of nodes changes while a run is paused",
                reason="NOT_PAUSED",
                metadata={"state": run.control.state.value},
                action="`longhaul runs pause`, wait until it is paused, then ask again",
            )
        return replace(run.desired, nodes=nodes)

    return verb


def _refuse_ended(run: Run, verb: str) -> None:
    if run.control.state.terminal or run.desired.wish is Wish.CANCEL:
        state = run.control.state.value.lower() if run.control.state.terminal else "being cancelled"
        raise FailedPrecondition(
            f"{run.name} is {state} and can't be {verb}",
            reason="RUN_ENDED",
            metadata={"state": run.control.state.value},
        )
