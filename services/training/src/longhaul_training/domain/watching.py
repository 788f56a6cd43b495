"""A run that steps: doubt and its end, repairs that are over, slow ranks, slow steps, and what explains them. Pure."""

from __future__ import annotations

from longhaul_training.domain import faults as fault_rules
from longhaul_training.domain.actions import Act, Change, Decision, RunEvent
from longhaul_training.domain.forecasts import new_forecast
from longhaul_training.domain.observations import World
from longhaul_training.domain.pace import repeated_documents, slowdown, slowing_loader
from longhaul_training.domain.states import Reason, Run, RunState, Stopping, StopPurpose
from longhaul_training.domain.stopping import growth
from longhaul_training.domain.transitions import amend, begin_stepping, close_incident, move

LOADER_SLOWS = "LOADER_SLOWS_WITH_STEPS"
CONSECUTIVE_CHUNKS = "CONSECUTIVE_CHUNKS_OF_ONE_DOCUMENT"
THROUGHPUT_DROP = "THROUGHPUT_DROP"
STRAGGLER = "STRAGGLER"


def watch_steps(run: Run, world: World) -> Decision:
    """The next step of a run without faults whose workers are not being stopped."""
    control = run.control
    doubt = fault_rules.suspicion(run, world)
    if doubt and control.state is RunState.RUNNING:
        return move(run, world, RunState.SUSPECT, Reason("SILENT", doubt))
    if not doubt and control.state is RunState.SUSPECT:
        return begin_stepping(run, world)
    incident = control.open_incident
    if (
        incident is not None
        and world.training.step_epoch == control.epoch
        and world.training.step > incident.fault_step
    ):
        return close_incident(run, world)
    if control.state is not RunState.RUNNING or world.training.step_epoch != control.epoch:
        return Act()
    for rule in (_explain, _notice_slowness, _diagnose, _grow, _forecast):
        change = rule(run, world)
        if change is not None:
            return change
    return Act()


def _explain(run: Run, world: World) -> Change | None:
    """Known incidents by their causes, each told once while it lasts."""
    pace = world.training.pace
    loader = slowing_loader(pace)
    if loader is not None and LOADER_SLOWS not in run.control.noticed:
        first, last = loader
        text = (
            f"waiting for data grew from {first.data_wait * 1e3:.0f} to {last.data_wait * 1e3:.0f} ms a step between "
            f"steps {first.step} and {last.step}: the loader or its storage slows with the step count"
        )
        data = {"from_seconds": first.data_wait, "to_seconds": last.data_wait, "step": last.step}
        return _notice(run, LOADER_SLOWS, text, data)
    share = repeated_documents(pace)
    if share and CONSECUTIVE_CHUNKS not in run.control.noticed:
        text = (
            f"{share:.0%} of neighbouring samples are consecutive chunks of one document: only documents are shuffled, "
            "which makes the loss noisy; shuffle sequences"
        )
        return _notice(run, CONSECUTIVE_CHUNKS, text, {"share": share})
    return None


def _notice_slowness(run: Run, world: World) -> Change | None:
    """An alert for a small drop of throughput that lasts, taken back when it is over."""
    limits = world.limits
    slow = slowdown(world.training.pace, limits.slow_share)
    noticed = THROUGHPUT_DROP in run.control.noticed
    if slow is None and noticed:
        kept = tuple(name for name in run.control.noticed if name != THROUGHPUT_DROP)
        event = RunEvent("THROUGHPUT_RECOVERED", THROUGHPUT_DROP, "steps are as fast as before")
        return amend(run, event, noticed=kept)
    if slow is None or noticed or world.now - slow.since < limits.slow_seconds:
        return None
    text = (
        f"steps take {slow.now_seconds:.3f} s, {slow.share:.0%} more than the run's own {slow.baseline_seconds:.3f} s, "
        f"for {world.now - slow.since:.0f} s"
    )
    return _notice(run, THROUGHPUT_DROP, text, {"share": slow.share, "baseline_seconds": slow.baseline_seconds})


def _diagnose(run: Run, world: World) -> Change | None:
    """Checks the nodes in pairs when a rank lags its peers, or all steps are much slower and no loader explains it."""
    control, limits = run.control, world.limits
    if len(run.members) < 2 or world.now - control.diagnosed_at < limits.diagnosis_pause:
        return None
    straggler = world.straggler
    if straggler is not None and straggler.seconds >= limits.straggler_seconds:
        why = f"rank {straggler.rank} in pod {straggler.pod} works at {straggler.score:.0%} of its peers' speed"
        return _stop_to_diagnose(run, world, STRAGGLER, why)
    slow = slowdown(world.training.pace, limits.slow_act_share)
    if slow is None or world.now - slow.since < limits.slow_seconds or LOADER_SLOWS in control.noticed:
        return None
    return _stop_to_diagnose(run, world, THROUGHPUT_DROP, f"steps take {slow.share:.0%} more than the run's own median")


def _stop_to_diagnose(run: Run, world: World, cause: str, why: str) -> Change:
    stopping = Stopping(StopPurpose.DIAGNOSE, run.control.epoch, world.now)
    return amend(run, RunEvent("SLOW", cause, why), stopping=stopping, reason=Reason(cause, why))


def _grow(run: Run, world: World) -> Change | None:
    """An elastic run that is short of nodes takes in those that came back, after a checkpoint."""
    joining = growth(run, world)
    if not joining:
        return None
    text = f"a checkpoint is written to take in {', '.join(slot.node for slot in joining)}"
    stopping = Stopping(StopPurpose.GROW, run.control.epoch, world.now)
    return amend(run, RunEvent("GROWTH_STARTED", "NODES_FREE", text), stopping=stopping)


def _forecast(run: Run, world: World) -> Change | None:
    forecast = new_forecast(run, world.training, world.now)
    return amend(run, forecasts=forecast) if forecast is not None else None


def _notice(run: Run, cause: str, text: str, data: dict[str, float]) -> Change:
    return amend(run, RunEvent("ANOMALY", cause, text, data), noticed=(*run.control.noticed, cause))
