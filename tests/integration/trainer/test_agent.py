from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from controller_harness import AgentProcess, Controller
from longhaul.training.v1 import agent_pb2
from longhaul_core.objects import open_store
from trainer_harness import World, finish, start_workers

LONG = {"steps": 400, "checkpoint": {"every_steps": 20}, "validation": {"every_steps": 0}}


@pytest.fixture
def controller() -> Iterator[Controller]:
    server = Controller()
    yield server
    server.stop()


@pytest.fixture
def start(world: World, controller: Controller) -> Iterator[Callable[..., AgentProcess]]:
    agents: list[AgentProcess] = []

    def make(slot: int, *, controllers: list[str] | None = None, **options: Any) -> AgentProcess:
        agents.append(AgentProcess(world, slot, controllers or [controller.address], **options))
        return agents[-1]

    yield make
    for agent in agents:
        agent.kill()


def join_all(controller: Controller, agents: list[AgentProcess]) -> list[str]:
    pods = [agent.pod for agent in agents]
    controller.wait(lambda: {join.pod for join in controller.joins} >= set(pods))
    return pods


def worker_process(controller: Controller, rank: int, epoch: int) -> int:
    def find() -> int:
        beats = [beat for beat in controller.heartbeats.values() if beat.epoch == epoch]
        return next((w.process_id for beat in beats for w in beat.workers if w.rank == rank), 0)

    controller.wait(lambda: find() > 0)
    return find()


def config(world: World, **changes: Any) -> dict[str, Any]:
    return world.config(**{"steps": 60, "checkpoint": {"every_steps": 10}, "validation": {"every_steps": 0}, **changes})


@pytest.fixture
def unbroken(world: World) -> dict[int, float]:
    """Losses of the run without a fault."""
    rows = finish(start_workers(world, 2, trainer_config=config(world)))
    world.checkpoints.committed.clear()
    return {row.step: row.loss for row in rows}


def test_worker_killed_and_resumed_has_the_losses_of_the_unbroken_run(
    world: World, controller: Controller, start: Callable[..., AgentProcess], unbroken: dict[int, float]
) -> None:
    pods = join_all(controller, [start(0), start(1)])
    controller.start_epoch(pods, 1, world, trainer_config=config(world))
    controller.wait_step(23)
    os.kill(worker_process(controller, 1, 1), signal.SIGKILL)
    killed = time.monotonic()
    controller.wait(lambda: any(e.exit_code == -signal.SIGKILL for e in controller.of("worker_exit")))
    detected = time.monotonic() - killed
    resume = controller.resume(world)
    controller.start_epoch(pods, 2, world, trainer_config=config(world), **resume)
    controller.wait(lambda: any(row.epoch == 2 for row in controller.rows()))
    first_step = time.monotonic() - killed
    controller.wait(lambda: len(controller.of("run_finished")) == 1)
    resumed_at = min(row.step for row in controller.rows() if row.epoch == 2)
    assert 10 < resumed_at <= 24
    assert controller.losses() == unbroken
    assert detected < 3
    assert first_step < 10
