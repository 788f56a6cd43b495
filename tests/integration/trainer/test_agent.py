from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from controller_harness import AgentProcess, Controller
from longhaul.training.v1 import agent_pb2
from longhaul_core.objects import open_store
from trainer_harness import World

from tests.conftest import is_alive

StartAgent = Callable[..., AgentProcess]

pytestmark = pytest.mark.timeout(600)  # each agent imports torch, which a busy machine may take a minute for


@pytest.fixture
def controller() -> Iterator[Controller]:
    server = Controller()
    yield server
    server.stop()


@pytest.fixture
def start(world: World, controller: Controller) -> Iterator[StartAgent]:
    agents: list[AgentProcess] = []

    def make(slot: int, *, controllers: list[str] | None = None, **options: Any) -> AgentProcess:
        agents.append(AgentProcess(world, slot, controllers or [controller.address], **options))
        return agents[-1]

    yield make
    for agent in agents:
        agent.kill()


def join_all(controller: Controller, *agents: AgentProcess) -> list[str]:
    pods = [agent.pod for agent in agents]
    controller.wait(lambda: {join.pod for join in controller.joins} >= set(pods))
    return pods


def worker_process(controller: Controller, rank: int, epoch: int) -> int:
    def find() -> int:
        beats = [beat for beat in controller.heartbeats.values() if beat.epoch == epoch]
        return next((w.process_id for beat in beats for w in beat.workers if w.rank == rank), 0)

    controller.wait(lambda: find() > 0)
    return find()


def test_worker_and_then_agent_killed_leave_the_losses_of_the_unbroken_run(
    world: World, controller: Controller, start: StartAgent, unbroken: dict[int, float], long_run: dict[str, Any]
) -> None:
    first, second = start(0), start(1)
    pods = join_all(controller, first, second)
    controller.start_epoch(pods, 1, world, trainer_config=long_run)
    victim = worker_process(controller, 1, 1)
    controller.wait_step(12)
    world.checkpoints.wait_step(10)
    os.kill(victim, signal.SIGKILL)
    controller.wait(lambda: any(e.exit_code == -signal.SIGKILL for e in controller.of("worker_exit")))
    controller.start_epoch(pods, 2, world, trainer_config=long_run, **controller.resume(world))
    controller.wait(lambda: any(row.epoch == 2 for row in controller.rows()))

    second.kill()
    third = start(1, incarnation=1)
    pods = join_all(controller, first, third)
    controller.start_epoch(pods, 3, world, trainer_config=long_run, **controller.resume(world))
    controller.wait(lambda: len(controller.of("run_finished")) == 1)

    epochs = [{row.step for row in controller.rows() if row.epoch == epoch} for epoch in (1, 2, 3)]
    assert all(epochs)
    assert min(epochs[1]) > 10
    assert controller.losses() == unbroken


def test_controller_away_and_back_gets_every_row_once_while_training_goes_on(
    world: World, controller: Controller, start: StartAgent, unbroken: dict[int, float], long_run: dict[str, Any]
) -> None:
    follower = Controller(leader=controller.address)
    agent = start(0, controllers=[follower.address, controller.address])
    pods = join_all(controller, agent)
    controller.start_epoch(pods, 1, world, trainer_config=long_run)
    controller.wait_step(3)
    controller.stop()
    steps_seen = len(controller.rows())
    world.checkpoints.wait_step(30)
    back = Controller(port=controller.port, term=2, known=controller)
    back.wait(lambda: len(back.of("run_finished")) == 1)
    follower.stop()

    assert steps_seen < 30
    assert [row.step for row in back.rows()] == list(range(1, 61))
    assert back.joins[0].epoch == 1
    assert back.joins[0].term == 1
    sequences = sorted(back.reports[agent.pod])
    assert sequences == list(range(1, len(sequences) + 1))
    back.send(agent.pod, shutdown=agent_pb2.Shutdown(reason="done"))
    assert agent.wait() == 0, agent.errors()
    logged = "".join(open_store(world.url).get(chunk.key).decode() for chunk in back.of("log_chunk"))
    assert logged.count("checkpoint committed") == 6
    back.stop()


def test_pod_ended_by_the_system_checkpoints_and_exits_as_preempted(
    world: World, controller: Controller, start: StartAgent, long_run: dict[str, Any]
) -> None:
    agent = start(0)
    pods = join_all(controller, agent)
    controller.start_epoch(pods, 1, world, trainer_config={**long_run, "steps": 900})
    controller.wait_step(3)
    agent.process.send_signal(signal.SIGTERM)
    assert agent.wait() == 82, agent.errors()
    exit_ = controller.of("worker_exit")[0]
    assert exit_.exit_code == 82
    assert exit_.step in world.checkpoints.committed


def test_command_of_an_older_term_is_refused(world: World, controller: Controller, start: StartAgent) -> None:
    agent = start(0)
    pods = join_all(controller, agent)
    controller.term = 5
    controller.send(pods[0], prepare_epoch=agent_pb2.PrepareEpoch(epoch=3))
    controller.wait(lambda: len(controller.of("epoch_ready")) == 1)
    controller.term = 4
    controller.send(pods[0], shutdown=agent_pb2.Shutdown(reason="old leader"))
    controller.term = 5
    controller.send(pods[0], prepare_epoch=agent_pb2.PrepareEpoch(epoch=4, bind_rendezvous=True))
    controller.wait(lambda: len(controller.of("epoch_ready")) == 2)
    assert agent.process.poll() is None
    assert controller.of("epoch_ready")[1].rendezvous_address.startswith("127.0.0.1:")


def test_nursery_killed_is_replaced_and_its_worker_reported(
    world: World, controller: Controller, start: StartAgent, long_run: dict[str, Any]
) -> None:
    agent = start(0)
    pods = join_all(controller, agent)
    controller.start_epoch(pods, 1, world, trainer_config={**long_run, "steps": 900})
    world.checkpoints.wait_step(10)
    (nursery,) = psutil.Process(agent.process.pid).children()
    (worker,) = nursery.children()
    nursery.kill()
    controller.wait(lambda: len(controller.of("worker_exit")) == 1)
    assert controller.of("worker_exit")[0].exit_code == -signal.SIGKILL
    assert not is_alive(worker.pid)
    last = {**long_run, "steps": max(world.checkpoints.committed) + 2}
    controller.start_epoch(pods, 2, world, trainer_config=last, **controller.resume(world))
    controller.wait(lambda: len(controller.of("run_finished")) == 1)


def test_hung_ranks_give_their_stacks_before_they_are_killed(
    world: World, controller: Controller, start: StartAgent, long_run: dict[str, Any]
) -> None:
    first, second = start(0), start(1)
    pods = join_all(controller, first, second)
    controller.start_epoch(pods, 1, world, trainer_config={**long_run, "steps": 900})
    frozen, waiting = worker_process(controller, 1, 1), worker_process(controller, 0, 1)
    controller.wait_step(3)
    os.kill(frozen, signal.SIGSTOP)
    controller.wait(lambda: min(w.silent_seconds for b in controller.heartbeats.values() for w in b.workers) > 3)
    for pod in pods:
        controller.send(pod, prepare_epoch=agent_pb2.PrepareEpoch(epoch=2))
    controller.wait(lambda: len(controller.of("epoch_ready", lambda ready: ready.epoch == 2)) == 2)

    assert not is_alive(frozen)
    assert not is_alive(waiting)
    stacks = {event.rank: event for event in controller.of("event", lambda event: event.type == "STACKS")}
    assert stacks.keys() == {0, 1}
    assert "torch/distributed" in stacks[0].data["stacks"], stacks[0].data["stacks"]
    assert "loop/training.py" in stacks[0].data["stacks"]
    assert "did not answer" in stacks[1].message
    assert stacks[1].data["process_state"].startswith("T (stopped)")
    controller.wait(lambda: any("loop/training.py" in text for text in logs(world, controller, rank=0)))
    for reports in controller.reports.values():
        order = [report for _, report in sorted(reports.items())]
        told = next(place for place, report in enumerate(order) if report.event.type == "STACKS")
        assert told < next(place for place, report in enumerate(order) if report.epoch_ready.epoch == 2)


def logs(world: World, controller: Controller, rank: int) -> list[str]:
    chunks = controller.of("log_chunk", lambda chunk: chunk.rank == rank)
    return [open_store(world.url).get(chunk.key).decode() for chunk in chunks]
