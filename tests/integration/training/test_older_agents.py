"""Pods of the release before, under the present services, as after an upgrade in the middle of a run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from longhaul.training.v1 import training_run_pb2 as pb
from longhaul_core.rpc.client import connect_sync
from old_wire import OldWire
from recovery_contract import STEP_SECONDS, paced, recovered, wait_empty
from training_harness import Lab, config

STEPS = 40
VARIABLES = ("LONGHAUL_CONTROLLER_ADDRESSES", "LONGHAUL_POD_CHECKPOINT_ADDRESS")


@pytest.fixture
def old_wire(lab: Lab) -> Iterator[OldWire]:
    """New pods reach the services through the wire of the release before, until the end of the test."""
    wire = OldWire((lab.folder / "server.pem").read_bytes(), (lab.folder / "server.key").read_bytes())
    for package, service in (("longhaul.training.v1", lab.training), ("longhaul.checkpoint.v1", lab.checkpoint)):
        address = service.environment["LONGHAUL_LISTEN_ADDRESS"]
        wire.routes[package] = connect_sync(address, tls_ca=lab.folder / "authority.pem")
    wait_empty(lab)
    before = dict(lab.training.environment)
    restart_training(lab, {**before, **dict.fromkeys(VARIABLES, wire.address)})
    yield wire
    wait_empty(lab)
    restart_training(lab, before)
    for channel in wire.routes.values():
        channel.close()
    wire.stop()


def restart_training(lab: Lab, environment: dict[str, str]) -> None:
    lab.training.stop()
    lab.training.environment = environment
    lab.training.start()
    lab.wait_ready()


def test_agents_of_the_release_before_train_recover_and_finish(lab: Lab, old_wire: OldWire) -> None:
    lab.create_run("older", config(steps=STEPS), drill=paced(2 * STEP_SECONDS))
    lab.wait_step("older", 12)
    os.kill(lab.rank("older", 1).process_id, signal.SIGKILL)
    lab.wait_step("older", 11, epoch=2)
    assert recovered(lab, "older", 0).action == pb.RECOVERY_ACTION_PROCESS
    run = lab.wait_state("older", "SUCCEEDED", "FAILED")
    assert run.status.state == pb.TRAINING_RUN_STATE_SUCCEEDED, run.status.reason
    assert sorted(lab.losses("older")) == list(range(1, STEPS + 1))
    assert run.status.checkpoint
    assert old_wire.calls["/longhaul.training.v1.AgentService/Connect"] >= 2
    assert old_wire.calls["/longhaul.checkpoint.v1.CheckpointService/CommitCheckpoint"] >= STEPS // 10, old_wire.calls
    assert {"ConnectRequest", "ConnectResponse"} <= set(+old_wire.dropped), "there were fields that it does not know"
