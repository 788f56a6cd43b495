"""Training on a Kubernetes API in memory: the suite for every API, and what only this one can play."""

from __future__ import annotations

from fakekube import FakeKubernetes
from training_contract import (
    test_leader_paused_in_the_middle_of_a_write_is_deposed_and_does_nothing_more,
    test_namespace_that_is_not_there_is_named,
    test_run_survives_node_loss_and_leaves_nothing_behind,
    test_what_cannot_run_is_a_state_that_says_what_to_do,
)
from training_harness import config, wait
from training_lab import KubeLab

__all__ = [
    "test_leader_paused_in_the_middle_of_a_write_is_deposed_and_does_nothing_more",
    "test_namespace_that_is_not_there_is_named",
    "test_run_survives_node_loss_and_leaves_nothing_behind",
    "test_what_cannot_run_is_a_state_that_says_what_to_do",
]


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
