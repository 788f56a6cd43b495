"""Runs behind a scheduler with the coscheduling plugin; skipped where the cluster does not have it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from chart_lab import Lab as Api
from coscheduling_lab import CoschedulingLab, has_pod_groups
from recovery_contract import lose_pod, recovered
from trainer_harness import make_token_set
from training_harness import config, wait
from training_lab import Background

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
STEPS = 60


@pytest.fixture
def coscheduling(kubeconfig: Path, tmp_path: Path) -> Iterator[CoschedulingLab]:
    api = Api(kubeconfig, f"longhaul-gang-{uuid.uuid4().hex[:8]}")
    if not has_pod_groups(api):
        pytest.skip("the cluster has no PodGroups of the coscheduling plugin")
    background = Background()
    lab = CoschedulingLab(tmp_path, background, api)
    lab.create_project()
    lab.token_set_key = make_token_set(lab.objects_url)
    lab.upstream.add_token_set(lab.token_set_key)
    yield lab
    lab.close()
    api.call("DELETE", api.path("Namespace", api.namespace))
    background.stop()


def test_no_pod_of_a_gang_is_bound_before_all_fit(coscheduling: CoschedulingLab) -> None:
    lab = coscheduling
    taken = [lab.fill_memory(node) for node in lab.nodes[1:]]  # the training service counts GPUs alone
    lab.create_run("gang", config(steps=STEPS), step_seconds=0.1, spares=1)
    bound = wait(lambda: lab.looked_at("gang"), "the scheduler has tried to bind all of the gang")
    assert lab.nodes[0] in bound, "none of the gang could have been bound by itself"
    assert set(bound.values()) == {""}, "one of a gang that does not fit has a node"
    assert lab.state("gang") != "RUNNING"
    assert [group["spec"]["minMember"] for group in lab.groups()] == [2]

    for pod in taken:
        lab.free_memory(pod)
    lab.wait_step("gang", 2)
    lost = lab.rank("gang", 1)
    lose_pod(lab, lost.pod)
    lab.wait_step("gang", 1, epoch=2)
    recovered(lab, "gang", 0)
    lab.wait_state("gang", "SUCCEEDED")
    assert sorted(lab.losses("gang")) == list(range(1, STEPS + 1))
    wait(lambda: not lab.owners("gang") and not lab.groups(), "groups go with what owns them")
