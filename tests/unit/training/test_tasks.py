from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from longhaul_training.domain.observations import DrainView, NodeView, PodPhase, PodView
from longhaul_training.domain.placement import Capacity, SpareDemand
from longhaul_training.domain.tasks import (
    CreateTaskPod,
    Task,
    TaskAct,
    TaskChange,
    TaskControl,
    TaskSpec,
    TaskState,
    TaskWorld,
    decide_task,
)

NOW = 1000.0
NODES = {name: NodeView(name, True, True) for name in ("a", "b")}


def make_task(state: TaskState = TaskState.QUEUED, **control: Any) -> Task:
    base = TaskControl(state=state)
    if state is TaskState.RUNNING:
        base = replace(base, attempt=1, node="a", pod_uid="u1", placed_at=NOW - 10, started_at=NOW - 10)
    return Task("p", "t", "uid", TaskSpec("SCORE", 1, "key", retries=1), replace(base, **control))


def make_world(task: Task, **pod: Any) -> TaskWorld:
    pods = {}
    if task.control.pod_uid:
        view = PodView(task.pod_name, task.control.pod_uid, PodPhase.RUNNING, task.control.node)
        pods = {task.pod_name: replace(view, **pod)}
    return TaskWorld(NOW, pods, NODES, Capacity({"a": 1, "b": 1}), {"a": 1, "b": 1})


def settle(task: Task, world: TaskWorld) -> tuple[Task, tuple[Any, ...]]:
    for _ in range(10):
        decision = decide_task(task, world)
        if isinstance(decision, TaskAct):
            return task, decision.actions
        task = replace(task, control=decision.control)
    raise AssertionError(task)


def test_task_takes_a_free_node_and_creates_its_pod() -> None:
    task, actions = settle(make_task(), make_world(make_task()))
    assert task.control.state is TaskState.RUNNING
    assert actions == (CreateTaskPod("p.task-t-1", 1, "a"),)


def test_task_waits_rather_than_take_the_last_spare() -> None:
    world = replace(make_world(make_task()), capacity=Capacity({"a": 1}, {}, (SpareDemand("run", 1, 1),)))
    task, actions = settle(make_task(), world)
    assert task.control.state is TaskState.QUEUED
    assert task.control.reason.message == "needs 1 GPU(s); 1 free, 1 kept as spares of training runs"
    assert actions == ()
    too_large = Capacity({"a": 0}, {}, (SpareDemand("run", 1, 1), SpareDemand("other", 3, 8)))
    task, _ = settle(make_task(), replace(world, capacity=too_large))
    assert task.control.reason.message == "needs 1 GPU(s); 0 free, 0 kept as spares of training runs"


def test_task_bound_to_a_cordoned_node_may_use_it() -> None:
    task = replace(make_task(), spec=TaskSpec("BURN_IN", 1, "key", node="b"))
    world = replace(make_world(task), capacity=Capacity({}), nodes={"b": NodeView("b", True, False)})
    task, _ = settle(task, world)
    assert task.control.node == "b"
    waiting, _ = settle(replace(task, control=TaskControl()), replace(world, free={"b": 0}))
    assert waiting.control.reason.message == "node b has 0 free GPU(s)"


def test_task_succeeds_and_its_pod_goes() -> None:
    task = make_task(TaskState.RUNNING)
    task, actions = settle(task, make_world(task, phase=PodPhase.SUCCEEDED, exit_code=0))
    assert task.control.state is TaskState.SUCCEEDED
    assert [action.uid for action in actions] == ["u1"]


@pytest.mark.parametrize(
    ("pod", "losses", "own"),
    [
        ({"reason": "NodeLost"}, 1, 0),
        ({"reason": "Evicted"}, 1, 0),
        ({"reason": "Error", "exit_code": 75}, 1, 0),
        ({"reason": "Error", "exit_code": 70}, 0, 1),
    ],
)
def test_failed_pod_is_tried_again_on_its_own_account(pod: dict[str, Any], losses: int, own: int) -> None:
    task = make_task(TaskState.RUNNING)
    decision = decide_task(task, make_world(task, phase=PodPhase.FAILED, **pod))
    assert isinstance(decision, TaskChange)
    assert decision.control.state is TaskState.QUEUED
    assert (decision.control.losses, decision.control.own_failures) == (losses, own)


@pytest.mark.parametrize("pod", [{"exit_code": 64}, {"exit_code": 80}, {"reason": "OOMKilled"}, {"exit_code": 70}])
def test_failure_of_its_own_ends_the_task(pod: dict[str, Any]) -> None:
    task = make_task(TaskState.RUNNING, own_failures=1)
    task, _ = settle(task, make_world(task, phase=PodPhase.FAILED, **pod))
    assert task.control.state is TaskState.FAILED
    assert task.control.reason.code


def test_task_leaves_a_node_that_is_drained_or_dead() -> None:
    task = make_task(TaskState.RUNNING)
    drained = replace(make_world(task), nodes={"a": NodeView("a", True, False, DrainView("s", True, "XID_79", 0.0))})
    assert decide_task(task, drained).control.state is TaskState.QUEUED
    dead = replace(make_world(task), nodes={"a": NodeView("a", False, False), "b": NODES["b"]})
    noted = replace(task, control=decide_task(task, dead).control)
    assert noted.control.node_lost_at == NOW
    assert decide_task(noted, replace(dead, now=NOW + 14)) == TaskAct()
    assert decide_task(noted, replace(dead, now=NOW + 15)).control.state is TaskState.QUEUED
    assert decide_task(noted, make_world(task)).control.node_lost_at is None


def test_task_that_takes_too_long_fails() -> None:
    task = replace(make_task(TaskState.RUNNING), spec=TaskSpec("SCORE", 1, "key", timeout_seconds=5.0))
    task, actions = settle(task, make_world(task))
    assert task.control.reason.code == "TIMEOUT"
    assert [action.uid for action in actions] == ["u1"]


def test_cancel_stops_the_pod_and_ends() -> None:
    task = replace(make_task(TaskState.RUNNING), cancelled=True)
    world = make_world(task)
    task, actions = settle(task, world)
    assert task.control.state is TaskState.CANCELLING
    assert [action.uid for action in actions] == ["u1"]
    task, _ = settle(task, replace(world, pods={}))
    assert task.control.state is TaskState.CANCELLED
