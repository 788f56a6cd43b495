"""Tasks: short pods with a result. As for runs: record and observations in, a change or actions out. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from longhaul_training.domain import causes
from longhaul_training.domain.actions import DeletePod, RunEvent
from longhaul_training.domain.causes import Kind
from longhaul_training.domain.observations import NodeView, PodPhase, PodView, Refusal
from longhaul_training.domain.placement import Capacity, place, spares_that_fit
from longhaul_training.domain.start_problems import start_problem
from longhaul_training.domain.states import Reason

GRACE_SECONDS = 5.0
# A task that lost its pod to the infrastructure is tried again this often beyond its own retries.
INFRASTRUCTURE_RETRIES = 10
NODE_PATIENCE_SECONDS = 15.0
START_SECONDS = 300.0


class TaskState(StrEnum):
    """State of a task; the last three are terminal."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def terminal(self) -> bool:
        """Whether the task is over for good."""
        return self in (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED)


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What a task runs and may use. `node`: a certain node, also one that is cordoned; empty: any that is free."""

    kind: str
    gpus: int
    result_key: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    node: str = ""
    timeout_seconds: float = 0.0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class TaskControl:
    """What the controller alone writes of a task."""

    state: TaskState = TaskState.QUEUED
    reason: Reason = field(default_factory=Reason)
    attempt: int = 0
    node: str = ""
    pod_uid: str = ""
    own_failures: int = 0
    losses: int = 0
    exit_code: int | None = None
    avoided_node: str = ""
    started_at: float | None = None
    placed_at: float = 0.0
    node_lost_at: float | None = None
    ended_at: float | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """A task as the controller sees it."""

    project: str
    id: str
    uid: str
    spec: TaskSpec
    control: TaskControl = TaskControl()
    cancelled: bool = False
    created_at: float = 0.0

    @property
    def name(self) -> str:
        """Resource name."""
        return f"projects/{self.project}/tasks/{self.id}"

    @property
    def pod_name(self) -> str:
        """Pod of the present attempt."""
        return f"{self.project}.task-{self.id}-{self.control.attempt}"

    @property
    def holds_gpus(self) -> bool:
        """Whether the task is placed."""
        return self.control.state is TaskState.RUNNING and bool(self.control.node)


@dataclass(frozen=True, slots=True)
class TaskWorld:
    """What is seen of the world for one task. `free` counts GPUs of every ready node, cordoned ones too."""

    now: float
    pods: Mapping[str, PodView] = field(default_factory=dict)
    nodes: Mapping[str, NodeView] = field(default_factory=dict)
    capacity: Capacity = field(default_factory=Capacity)
    free: Mapping[str, int] = field(default_factory=dict)
    refusals: Mapping[str, Refusal] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CreateTaskPod:
    """Creates the pod of a task's attempt."""

    pod: str
    attempt: int
    node: str


@dataclass(frozen=True, slots=True)
class TaskChange:
    """The record must move first."""

    control: TaskControl
    events: tuple[RunEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskAct:
    """The record stands: do these."""

    actions: tuple[CreateTaskPod | DeletePod, ...] = ()


def decide_task(task: Task, world: TaskWorld) -> TaskChange | TaskAct:
    """One step for one task."""
    decision = _decide(task, world)
    if isinstance(decision, TaskChange):
        return decision
    return TaskAct((*_stale_pods(task, world), *decision.actions))


def _decide(task: Task, world: TaskWorld) -> TaskChange | TaskAct:
    control = task.control
    if control.state.terminal:
        return TaskAct()
    if task.cancelled or control.state is TaskState.CANCELLING:
        return _cancel(task, world)
    if control.state is TaskState.QUEUED:
        return _start(task, world)
    return _run(task, world)


def _cancel(task: Task, world: TaskWorld) -> TaskChange | TaskAct:
    if task.control.state is not TaskState.CANCELLING:
        return _move(task, TaskState.CANCELLING, Reason("CANCELLING", "the pod is being stopped"))
    alive = [p for p in world.pods.values() if _alive(p) and _ready(p.node, world)]
    if alive:
        return TaskAct()
    return _move(task, TaskState.CANCELLED, Reason("CANCELLED_BY_USER", "cancelled"), ended_at=world.now)


def _start(task: Task, world: TaskWorld) -> TaskChange | TaskAct:
    control, spec = task.control, task.spec
    if any(_alive(pod) for pod in world.pods.values()):
        return TaskAct()
    node, problem = _choose_node(task, world)
    if not node:
        reason = Reason("NO_CAPACITY", problem)
        return TaskAct() if control.reason == reason else TaskChange(replace(control, reason=reason))
    return _move(
        task,
        TaskState.RUNNING,
        Reason("PLACED", f"{spec.kind} on {node}"),
        node=node,
        attempt=control.attempt + 1,
        pod_uid="",
        placed_at=world.now,
        started_at=control.started_at or world.now,
        node_lost_at=None,
    )


def _choose_node(task: Task, world: TaskWorld) -> tuple[str, str]:
    """The node to use, or why there is none yet."""
    spec = task.spec
    if spec.node:
        if not _ready(spec.node, world):
            return "", f"node {spec.node} is not ready"
        free = world.free.get(spec.node, 0)
        return (spec.node, "") if free >= spec.gpus else ("", f"node {spec.node} has {free} free GPU(s)")
    avoid = (task.control.avoided_node,) if task.control.avoided_node else ()
    chosen = place(world.capacity, 1, spec.gpus, avoid=avoid)
    if chosen is not None:
        return chosen[0], ""
    kept = sum(spares_that_fit(world.capacity))
    text = f"needs {spec.gpus} GPU(s); {world.capacity.total_free} free, {kept} kept as spares of training runs"
    return "", text


def _run(task: Task, world: TaskWorld) -> TaskChange | TaskAct:
    control = task.control
    pod = world.pods.get(task.pod_name)
    if pod is None:
        if control.pod_uid:
            return _lost(task, world, "its pod was deleted by someone else")
        if (refusal := world.refusals.get(task.pod_name)) is not None:
            return _refused(task, world, refusal)
        return TaskAct((CreateTaskPod(task.pod_name, control.attempt, control.node),))
    if not control.pod_uid:
        return TaskChange(replace(control, pod_uid=pod.uid))
    if pod.phase is PodPhase.SUCCEEDED:
        reason = Reason("DONE", f"result in {task.spec.result_key}")
        return _move(task, TaskState.SUCCEEDED, reason, ended_at=world.now, exit_code=0)
    if pod.phase is PodPhase.FAILED:
        return _failed(task, world, pod)
    if task.spec.timeout_seconds and world.now - control.placed_at > task.spec.timeout_seconds:
        reason = Reason("TIMEOUT", f"not done after {task.spec.timeout_seconds:.0f} s", "give it a longer timeout")
        return _move(task, TaskState.FAILED, reason, ended_at=world.now)
    return _stuck(task, world, pod) or _check_node(task, world)


def _refused(task: Task, world: TaskWorld, refusal: Refusal) -> TaskChange | TaskAct:
    """The cluster will not have the pod: shown while it is asked again, the end where asking is in vain."""
    control = task.control
    reason = Reason(refusal.code, refusal.message, refusal.action)
    if refusal.lasting:
        return _move(task, TaskState.FAILED, reason, ended_at=world.now)
    if control.reason != reason:
        return TaskChange(replace(control, reason=reason))
    return TaskAct((CreateTaskPod(task.pod_name, control.attempt, control.node),))


def _stuck(task: Task, world: TaskWorld, pod: PodView) -> TaskChange | None:
    """A pod that has not started for too long is given up with its GPUs; until then its trouble is shown."""
    problem = start_problem(pod)
    if problem is None:
        return None
    code, action = problem
    reason = Reason(code, f"pod {pod.name} on {task.control.node}: {pod.message or pod.reason}", action)
    if world.now - task.control.placed_at >= START_SECONDS:
        return _move(task, TaskState.FAILED, reason, ended_at=world.now)
    return TaskChange(replace(task.control, reason=reason)) if task.control.reason != reason else None


def _check_node(task: Task, world: TaskWorld) -> TaskChange | TaskAct:
    control = task.control
    node = world.nodes.get(control.node)
    if node is not None and node.drain is not None and not task.spec.node:
        return _lost(task, world, f"node {control.node} is to be left: {node.drain.cause}")
    if _ready(control.node, world):
        return TaskAct() if control.node_lost_at is None else TaskChange(replace(control, node_lost_at=None))
    if control.node_lost_at is None:
        return TaskChange(replace(control, node_lost_at=world.now))
    if world.now - control.node_lost_at >= NODE_PATIENCE_SECONDS:
        return _lost(task, world, f"node {control.node} does not answer")
    return TaskAct()


def _failed(task: Task, world: TaskWorld, pod: PodView) -> TaskChange | TaskAct:
    control = task.control
    cause = causes.pod_cause(pod.reason, pod.exit_code, disrupted=pod.disrupted)
    if pod.exit_code is not None and pod.exit_code >= 0 and cause is causes.POD_FAILED:
        cause = causes.worker_cause(pod.exit_code)
    text = f"{pod.reason or 'failed'}, exit code {pod.exit_code} {pod.message}".strip()
    if cause.kind in (Kind.DISRUPTION, Kind.INFRASTRUCTURE, Kind.PEER):
        return _lost(task, world, text, pod.exit_code)
    if cause.kind is not Kind.FATAL and control.own_failures < task.spec.retries:
        return _again(task, world, text, own_failures=control.own_failures + 1, exit_code=pod.exit_code)
    reason = Reason(cause.name, text, cause.action)
    return _move(task, TaskState.FAILED, reason, ended_at=world.now, exit_code=pod.exit_code)


def _lost(task: Task, world: TaskWorld, text: str, exit_code: int | None = None) -> TaskChange | TaskAct:
    losses = task.control.losses + 1
    if losses > INFRASTRUCTURE_RETRIES:
        reason = Reason("POD_LOST", f"{text}; given up after {losses} losses", "look at the nodes, then ask again")
        return _move(task, TaskState.FAILED, reason, ended_at=world.now, exit_code=exit_code)
    return _again(task, world, text, losses=losses, exit_code=exit_code, avoided_node=task.control.node)


def _again(task: Task, world: TaskWorld, text: str, **changes: Any) -> TaskChange:
    return _move(task, TaskState.QUEUED, Reason("RETRYING", text), node="", pod_uid="", node_lost_at=None, **changes)


def _move(task: Task, state: TaskState, reason: Reason, **changes: Any) -> TaskChange:
    data = {"from": task.control.state.value, "to": state.value, "attempt": task.control.attempt}
    event = RunEvent("STATE_CHANGED", reason.code, reason.message, data)
    return TaskChange(replace(task.control, state=state, reason=reason, **changes), (event,))


def _stale_pods(task: Task, world: TaskWorld) -> tuple[DeletePod, ...]:
    """All pods but the present one; once the task is over, that too."""
    current = task.pod_name if task.control.state is TaskState.RUNNING else ""
    return tuple(
        DeletePod(pod.name, pod.uid, GRACE_SECONDS)
        for pod in world.pods.values()
        if pod.name != current and not pod.deleting
    )


def _alive(pod: PodView) -> bool:
    return pod.phase not in (PodPhase.SUCCEEDED, PodPhase.FAILED)


def _ready(node: str, world: TaskWorld) -> bool:
    view = world.nodes.get(node)
    return view is not None and view.ready
