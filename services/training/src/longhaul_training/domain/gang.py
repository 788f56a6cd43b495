"""All pods of a run start, or none keeps its GPUs. Pure.

A run that holds GPUs while a pod of it cannot be created, placed or started is given time, and told what the matter is.
When the time is over the whole gang gives its GPUs back and queues again, with a pause that doubles. What cannot get
better by waiting fails the run at once; an image or a Secret that is missing fails it after a few tries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from longhaul_training.domain.actions import Change, RunEvent
from longhaul_training.domain.observations import PodPhase, Refusal, World
from longhaul_training.domain.start_problems import start_problem
from longhaul_training.domain.states import Reason, Run, RunState
from longhaul_training.domain.transitions import amend, end, move, release

TRIES = 5
GATED = "SchedulingGated"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What keeps one pod from starting. `patient`: somebody else decides when it starts, however long that takes."""

    reason: Reason
    node: str
    patient: bool = False
    repeated: bool = True


def assemble(run: Run, world: World) -> Change | None:
    """What a gang that is not complete comes to; None while it is all right to wait on."""
    refusal = next(_refusals(run, world), None)
    if refusal is not None and refusal.lasting:
        return end(run, world, RunState.FAILED, Reason(refusal.code, refusal.message, refusal.action))
    obstacles = list(_obstacles(run, world))
    if not obstacles:
        return None
    if refusal is not None and run.control.state is RunState.ADMITTED:
        return _give_back(run, world, obstacles[0])
    if any(obstacle.patient for obstacle in obstacles):
        return _tell(run, next(obstacle for obstacle in obstacles if obstacle.patient))
    if world.now - max(run.control.since, run.control.backoff_until) >= world.limits.gang:
        return _give_back(run, world, obstacles[0])
    return _tell(run, obstacles[0])


def _refusals(run: Run, world: World) -> Iterator[Refusal]:
    for name in map(run.pod_name, run.members):
        if name in world.refusals and name not in world.pods:
            yield world.refusals[name]


def _obstacles(run: Run, world: World) -> Iterator[Obstacle]:
    """By severity: refused, then known to be stuck, then not started yet."""
    waiting = []
    for name, slot in ((run.pod_name(slot), slot) for slot in run.members if slot.node):
        pod, refusal = world.pods.get(name), world.refusals.get(name)
        if pod is None and refusal is not None:
            yield Obstacle(Reason(refusal.code, refusal.message, refusal.action), slot.node, repeated=False)
        elif pod is not None and pod.phase is PodPhase.PENDING:
            waiting.append(pod)
    for pod in waiting:
        if (problem := start_problem(pod)) is not None:
            code, action = problem
            text = f"pod {pod.name} on {pod.node or 'no node'}: {pod.message or pod.reason}"
            yield Obstacle(Reason(code, text, action), pod.node)
    for pod in waiting:
        if pod.reason == GATED:
            text = f"pod {pod.name} waits for the cluster's queue: {pod.message or pod.reason}"
            yield Obstacle(Reason("WAITS_FOR_SCHEDULER", text), pod.node, patient=True)
        elif start_problem(pod) is None:
            text = f"pod {pod.name} on {pod.node or 'no node'} has not started yet"
            yield Obstacle(Reason("POD_STARTING", text), pod.node, repeated=False)


def _tell(run: Run, obstacle: Obstacle) -> Change | None:
    """Shows the obstacle, once; a pod that is merely starting is no news."""
    if obstacle.reason.code == "POD_STARTING" or run.control.reason == obstacle.reason:
        return None
    return amend(run, reason=obstacle.reason)


def _give_back(run: Run, world: World, obstacle: Obstacle) -> Change:
    control, reason = run.control, obstacle.reason
    requeues = control.requeues + 1
    if obstacle.repeated and requeues >= TRIES:
        text = f"{reason.message} (given up after {requeues} tries)"
        return end(run, world, RunState.FAILED, Reason(reason.code, text, reason.action))
    pause = min(world.limits.requeue_maximum, world.limits.requeue_base * 2.0 ** (requeues - 1))
    event = RunEvent(
        "GANG_RELEASED", reason.code, f"all GPUs are given back for {pause:.0f} s", {"pause_seconds": pause}
    )
    return move(
        run,
        world,
        RunState.QUEUED,
        reason,
        event,
        slots=release(run),
        stopping=None,
        requeues=requeues,
        backoff_until=world.now + pause,
        avoided_nodes=(obstacle.node,) if obstacle.node else (),
    )
