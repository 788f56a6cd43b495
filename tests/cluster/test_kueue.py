"""Runs behind Kueue with its own controller; skipped where the cluster does not have it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from chart_lab import Lab as Api
from kueue_lab import GATE, POD_GROUP, KueueLab, conditions, served_version
from recovery_contract import lose_pod, recovered
from trainer_harness import make_token_set
from training_harness import config, wait
from training_lab import Background

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
STEPS = 60


@pytest.fixture
def kueue(kubeconfig: Path, tmp_path: Path) -> Iterator[KueueLab]:
    api = Api(kubeconfig, f"longhaul-kueue-{uuid.uuid4().hex[:8]}")
    if not (version := served_version(api)):
        pytest.skip("the cluster has no Kueue")
    background = Background()
    lab = KueueLab(tmp_path, background, api, version, "")
    lab.create_project()
    lab.token_set_key = make_token_set(lab.objects_url)
    lab.upstream.add_token_set(lab.token_set_key)
    yield lab
    lab.close()
    api.call("DELETE", api.path("Namespace", api.namespace))
    background.stop()


def test_pod_group_is_admitted_as_a_whole_and_the_next_waits_for_the_quota(kueue: KueueLab) -> None:
    lab = kueue
    lab.create_run("first", config(steps=STEPS), drill="step=0.2@epoch=1")
    lab.wait_step("first", 2)
    pods = lab.raw_pods("first").values()
    assert lab.gates("first") == [[], []]
    (group,) = {pod["metadata"]["labels"][POD_GROUP] for pod in pods}
    workload = lab.workloads()[group]
    assert workload["spec"]["queueName"] == "runs"
    assert sum(part["count"] for part in workload["spec"]["podSets"]) == len(pods) == 2
    assert conditions(workload)["Admitted"] == "True"

    lab.create_run("second", config(steps=10), nodes=1)  # there is a node for it, but no quota
    wait(lambda: lab.gates("second") == [[GATE]], "Kueue holds back the second run's pod")
    assert lab.state("second") != "RUNNING"

    lost = lab.rank("first", 1)
    lose_pod(lab, lost.pod)
    lab.wait_step("first", 1, epoch=2)
    recovered(lab, "first", 0)
    assert lab.gates("second") == [[GATE]], "a replacement keeps the place of its group"
    lab.wait_state("first", "SUCCEEDED")
    assert sorted(lab.losses("first")) == list(range(1, STEPS + 1))

    lab.wait_state("second", "SUCCEEDED")
    assert lab.get_run("second").status.epoch == 1
    wait(lambda: not lab.raw("pods"), "no pod is left, nor held by a finalizer")
    wait(lambda: not lab.raw("configmaps") or not lab.owners("first") + lab.owners("second"), "nor what owned them")


def test_spare_has_a_place_of_its_own_and_takes_over(kueue: KueueLab) -> None:
    lab = kueue
    lab.create_run("guarded", config(steps=STEPS), nodes=1, spares=1, drill="step=0.2@epoch=1")
    wait(lambda: lab.get_run("guarded").status.spares_ready == 1, "the spare is warm")
    before = lab.raw_pods("guarded")
    assert lab.gates("guarded") == [[], []]
    groups = [pod["metadata"]["labels"].get(POD_GROUP) for pod in before.values()]
    assert len([group for group in groups if group]) == 1, "Kueue removes what a group has too many of"
    lost = lab.rank("guarded", 0)
    lab.lose_node(lost.node)
    lab.wait_step("guarded", 1, epoch=2)
    recovered(lab, "guarded", 0)
    assert lab.rank("guarded", 0, epoch=2).pod in before.keys() - {lost.pod}
    lab.return_node(lost.node)
    lab.wait_state("guarded", "SUCCEEDED")
    assert sorted(lab.losses("guarded")) == list(range(1, STEPS + 1))
    wait(lambda: not lab.raw("pods"), "no pod is left, nor held by a finalizer")
