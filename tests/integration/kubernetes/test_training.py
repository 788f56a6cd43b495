"""Training on a Kubernetes API in memory: the suite for every API, and what only this one can play."""

from __future__ import annotations

import signal

import pytest
from fakekube import FakeKubernetes
from fakekube.faults import Fault
from longhaul.training.v1 import training_run_pb2 as pb
from recovery_contract import *  # noqa: F403 (the tests themselves)
from training_contract import (  # noqa: F401 (the tests themselves, but for what takes long and is no news here)
    test_leader_paused_in_the_middle_of_a_write_is_deposed_and_does_nothing_more,
    test_namespace_that_is_not_there_is_named,
    test_what_cannot_run_is_a_state_that_says_what_to_do,
)
from training_harness import config, wait
from training_lab import KubeLab, signalled

pytestmark = pytest.mark.timeout(600)


def test_run_goes_on_while_the_api_server_is_away_and_costs_few_calls(kube: KubeLab, api: FakeKubernetes) -> None:
    before = api.ledger.calls.copy()
    kube.submit("unseen", config(steps=900))
    kube.wait_step("unseen", 5)
    kube.background.run(api.stop())
    away_at = kube.get_run("unseen").status.step
    kube.wait_step("unseen", away_at + 60)
    kube.background.run(api.start())
    kube.wait_step("unseen", away_at + 90)
    status = kube.get_run("unseen").status
    assert (status.epoch, list(status.incidents)) == (1, [])
    kube.cancel("unseen")
    kube.wait_state("unseen", "CANCELLED")
    wait(lambda: not kube.raw_pods("unseen"), "its pod is gone")
    calls = api.ledger.calls - before
    assert calls["create", "pods"] == 1
    assert calls["create", "configmaps"] == 1
    assert calls["get", "configmaps"] == 0
    # One by the controller; the kubelet's own removal of the object comes on top.
    assert calls["delete", "pods"] <= 3


@pytest.mark.needs_program("postgres")
def test_leader_paused_in_the_middle_of_creating_pods_loses_and_doubles_none(
    kube: KubeLab, api: FakeKubernetes
) -> None:
    def run() -> pb.TrainingRun:
        return kube.second_runs.GetTrainingRun(pb.GetTrainingRunRequest(name="projects/lab/trainingRuns/halved"))

    kube.start_second()
    ended = kube.training.log.read_bytes().count(b"leadership ended")
    before = api.ledger.calls.copy()
    refused = Fault("create", "pods", 503, "busy", times=10_000, after=1)
    api.ledger.faults.append(refused)
    kube.submit("halved", config(steps=30), nodes=2)
    wait(lambda: refused.fired and kube.raw_pods("halved"), "one pod of two is created")
    signalled(kube.training, signal.SIGSTOP)
    try:
        first = kube.raw_pods("halved")
        assert len(first) == 1
        api.ledger.faults.remove(refused)
        wait(lambda: len(kube.raw_pods("halved")) == 2, "the other replica creates what was missing")
        assert len(kube.owners("halved")) == 1
        wait(lambda: run().status.state == pb.TRAINING_RUN_STATE_SUCCEEDED, "the run ends well")
    finally:
        signalled(kube.training, signal.SIGCONT)
    wait(lambda: kube.training.log.read_bytes().count(b"leadership ended") > ended, "the deposed leader notices")
    assert (run().status.epoch, list(run().status.incidents)) == (1, [])
    wait(lambda: not kube.raw_pods("halved"), "its pods are gone")
    calls = api.ledger.calls - before
    assert calls["create", "pods"] - refused.fired == 2
    kube.second.stop()
