"""Runs in containers of the trainer's image on real nodes; skipped where LONGHAUL_TEST_TRAINER_IMAGE names none.

The nodes must have the image and reach this machine. For the death of a node LONGHAUL_TEST_KILL_NODE names a program
that takes a node's power: kubelet, containers and all, without a word to the API.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from chart_lab import Lab as Api
from image_lab import KEYS, KILL, ImageLab, real_nodes
from longhaul.training.v1 import training_run_pb2 as pb
from recovery_contract import recovered
from training_harness import config, run_name, wait

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
IMAGE = "LONGHAUL_TEST_TRAINER_IMAGE"
STEPS = 40


@pytest.fixture(scope="module")
def image_lab(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageLab]:
    if not (image := os.environ.get(IMAGE)):
        pytest.skip(f"{IMAGE} is not set")
    api = Api(kubeconfig, f"longhaul-image-{uuid.uuid4().hex[:8]}")
    if len(nodes := real_nodes(api)) < 2:
        pytest.skip("fewer than two nodes with a kubelet are ready")
    patch = pytest.MonkeyPatch()
    for name, value in KEYS.items():
        patch.setenv(name, value)
    lab = ImageLab(tmp_path_factory.mktemp("image"), api, image, nodes[:2])
    lab.create_project()
    yield lab
    lab.close()
    patch.undo()


def test_run_on_two_nodes_trains_to_its_end_in_containers(image_lab: ImageLab) -> None:
    lab = image_lab
    lab.create_run("whole", config(steps=STEPS), nodes=2, step_seconds=0.1)
    lab.wait_step("whole", 2)
    pods = lab.raw_pods()
    assert {pod["spec"]["nodeName"] for pod in pods.values()} == set(lab.real)
    for pod in pods.values():
        (container,) = pod["status"]["containerStatuses"]
        assert container["imageID"]
        assert container["restartCount"] == 0
    run = lab.wait_state("whole", "SUCCEEDED", "FAILED")
    assert run.status.state == pb.TRAINING_RUN_STATE_SUCCEEDED, run.status.reason
    assert (run.status.epoch, list(run.status.incidents)) == (1, [])
    assert sorted(lab.losses("whole")) == list(range(1, STEPS + 1))
    lines = [
        line.text
        for response in lab.runs.ReadLogs(pb.ReadLogsRequest(name=run_name("whole"), rank=0, follow=True))
        for line in response.lines
    ]
    assert sum("checkpoint committed" in line for line in lines) == STEPS // 10
    wait(lambda: not lab.pods(), "the pods of the ended run are gone")


@pytest.mark.skipif(KILL not in os.environ, reason=f"{KILL} names no program")
def test_run_goes_on_with_its_spare_when_a_node_dies(image_lab: ImageLab) -> None:
    lab = image_lab
    lab.create_run("moves", config(steps=STEPS), nodes=1, spares=1, drill="step=0.3@epoch=1")
    lab.wait_step("moves", 12)
    gone = lab.rank("moves", 0)
    lab.lose_node(gone.node)
    run = lab.wait_state("moves", "SUCCEEDED", "FAILED")
    assert run.status.state == pb.TRAINING_RUN_STATE_SUCCEEDED, run.status.reason
    incident = recovered(lab, "moves", 0)
    assert (incident.action, incident.node) == (pb.RECOVERY_ACTION_NODE, gone.node)
    assert incident.resume_step in range(10, incident.fault_step + 1, 10)
    assert {row.node for row in lab.get_run("moves").status.ranks} <= set(lab.real) - {gone.node}
    assert sorted(lab.losses("moves")) == list(range(1, STEPS + 1))
    wait(lambda: gone.pod not in lab.pods(), "the pod of the dead node is removed by force")
