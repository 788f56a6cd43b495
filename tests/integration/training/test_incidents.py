"""What goes wrong in a run without ending it: planted for real, and named by its cause in the run's events."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from longhaul.training.v1 import training_run_pb2 as pb
from longhaul_core.cluster.local.launch import running_nodes, start_node
from training_harness import Lab, config, run_name, wait

pytestmark = pytest.mark.timeout(600)
ENDED = ("SUCCEEDED", "FAILED")


class ImpatientLab(Lab):
    """Two nodes of one pretend GPU, two of two; a controller that waits for seconds where it would for minutes."""

    def gpus_of(self, node: str) -> int:
        return 2 if node in ("node-2", "node-3") else 1

    def training_environment(self) -> dict[str, str]:
        return {
            "LONGHAUL_HANG_SECONDS": "3",
            "LONGHAUL_STRAGGLER_SECONDS": "2",
            "LONGHAUL_ELASTIC_SECONDS": "0.5",
        }


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    from trainer_harness import make_token_set

    opened = ImpatientLab(tmp_path_factory.mktemp("incidents"), nodes=4, guarded=False)
    opened.create_project()
    opened.upstream.add_token_set(make_token_set(opened.objects_url))
    yield opened
    opened.close()


def found(lab: Lab, run: str, kind: str, cause: str = "") -> list[Any]:
    return [event for event in lab.events(run) if event.type == kind and cause in ("", event.cause)]


def test_playbook_incidents_are_named_by_their_causes(lab: Lab) -> None:
    slow = config(steps=400, optimizer={"learning_rate": 1e-6})
    lab.create_run("loader", slow, drill="loader=0.0005", reference="order", nodes=1)
    lab.create_run("order", config(steps=400), drill="order=1,step=0.01", nodes=1)
    lab.create_run("shards", config(layout={"tensor_parallel": 2}), drill="shards=1", nodes=1, gpus_per_node=2)
    failed = lab.wait_state("shards", *ENDED)
    assert (lab.state("shards"), failed.status.reason.code) == ("FAILED", "IDENTICAL_SHARDS")
    assert "initialise by (seed, name, global index)" in failed.status.reason.action
    order = wait(lambda: found(lab, "order", "ANOMALY"), "consecutive chunks are noticed")
    assert [event.cause for event in order] == ["CONSECUTIVE_CHUNKS_OF_ONE_DOCUMENT"]
    assert order[0].data["share"] > 0.2
    loader = wait(lambda: found(lab, "loader", "ANOMALY"), "a loader that slows is noticed")
    assert [event.cause for event in loader] == ["LOADER_SLOWS_WITH_STEPS"]
    assert loader[0].data["to_seconds"] > loader[0].data["from_seconds"]
    behind = wait(lambda: found(lab, "loader", "BEHIND_REFERENCE"), "the run is behind its reference")
    assert behind[0].data["run"] == run_name("order")
    assert behind[0].data["loss"] > behind[0].data["reference"] + 0.05
    for run in ("loader", "order"):
        lab.cancel(run)
    for run in ("loader", "order"):
        lab.wait_state(run, "CANCELLED", "SUCCEEDED")


def test_wrong_result_is_traced_to_its_node_in_two_rounds_and_the_node_is_left(lab: Lab) -> None:
    drill = "corrupt=12@node=node-1,gemm=0.001@node=node-1"
    wait(lambda: not lab.pods(), "the pods of the runs before are gone")
    lab.create_run("wrong", config(steps=20), drill=drill, step_seconds=0.02, nodes=2, spares=1)
    run = lab.wait_state("wrong", *ENDED)
    assert run.status.state == pb.TRAINING_RUN_STATE_SUCCEEDED, run.status.reason
    (incident,) = run.status.incidents
    assert (incident.cause, incident.action, incident.node) == ("RESULT_DIFFERS", pb.RECOVERY_ACTION_NODE, "node-1")
    assert "node-1 failed two rounds of checks: gemm" in incident.message
    kinds = ["NODE_SUSPECT", "DIAGNOSIS_STARTED", "NODES_SUSPECTED", "NODE_ACCUSED"]
    assert [event.type for event in lab.events("wrong") if event.type in kinds] == kinds
    assert [event.cause for event in found(lab, "wrong", "NODE_ACCUSED")] == ["QUARANTINED"]
    assert "nodes/node-1" in [request.name for request in lab.upstream.quarantined]
    assert sorted({row.step for row in lab.rows("wrong")}) == list(range(1, 21))


def test_full_preflight_finds_a_bad_node_replaces_it_and_shows_its_checklist(lab: Lab) -> None:
    wait(lambda: not lab.pods(), "the pods of the run before are gone")
    lab.create_run("checked", config(steps=4), drill="gemm=0.001@node=node-0", nodes=2, preflight="full")
    run = lab.wait_state("checked", *ENDED)
    assert run.status.state == pb.TRAINING_RUN_STATE_SUCCEEDED, run.status.reason
    assert ("NODE_FAULTY", "node-0") in [(incident.cause, incident.node) for incident in run.status.incidents]
    assert "nodes/node-0" in [request.name for request in lab.upstream.quarantined]
    kinds = [event.type for event in lab.events("checked")]
    assert kinds.index("PREFLIGHT_STARTED") < kinds.index("NODES_SUSPECTED") < kinds.index("NODE_ACCUSED")
    assert kinds.count("PREFLIGHT_STARTED") >= 2, "the node that took its place was checked too"
    lines = {(line.node, line.check): line.passed for line in run.status.checks}
    assert "node-0" not in {node for node, _ in lines}
    checks = {check for _, check in lines}
    assert checks >= {"gemm", "gpu_memory", "all_reduce", "storage", "data", "resume", "evaluation"}


def test_preempted_run_is_requeued_with_its_checkpoint_and_goes_on_with_fewer_nodes(lab: Lab) -> None:
    lab.create_run("low", config(steps=24), step_seconds=0.05, nodes=2, gpus_per_node=2)
    lab.wait_step("low", 5)
    lab.create_run("high", config(steps=10), step_seconds=0.05, nodes=1, gpus_per_node=2, priority=10)
    lab.wait_state("low", "QUEUED")
    lab.wait_step("high", 1)
    (preempted,) = found(lab, "low", "PREEMPTION_STARTED")
    assert preempted.data["for"].endswith("trainingRuns/high")
    made = max(lab.losses("low"))
    lab.runs.PauseTrainingRun(pb.PauseTrainingRunRequest(name=run_name("low")))
    lab.wait_state("low", "PAUSED")
    lab.runs.ResizeTrainingRun(pb.ResizeTrainingRunRequest(name=run_name("low"), nodes=1))
    lab.runs.ResumeTrainingRun(pb.ResumeTrainingRunRequest(name=run_name("low")))
    for name in ("low", "high"):
        run = lab.wait_state(name, *ENDED)
        assert run.status.state == pb.TRAINING_RUN_STATE_SUCCEEDED, run.status.reason
    rows = lab.rows("low")
    assert [row.step for row in rows] == list(range(1, 25))
    assert not [row for row in rows if row.replayed], "a checkpoint was written before the nodes were given back"
    assert min(row.step for row in rows if row.epoch == 2) == made + 1
    assert not lab.get_run("low").status.incidents


def test_elastic_run_survives_a_hang_goes_on_without_a_lost_node_and_takes_it_back(lab: Lab) -> None:
    drill = "hang=8@rank=1@epoch=1"
    wait(lambda: not lab.pods(), "the pods of the runs before are gone")
    lab.create_run(
        "elastic", config(steps=70), drill=drill, step_seconds=0.05, nodes=2, gpus_per_node=2, minimum_nodes=1
    )
    lab.wait_step("elastic", 10, epoch=2)
    hang = lab.get_run("elastic").status.incidents[0]
    assert (hang.cause, hang.action) == ("HANG", pb.RECOVERY_ACTION_PROCESS)
    stacks = {int(event.data["rank"]): event.message for event in found(lab, "elastic", "STACKS")}
    assert set(stacks) == {0, 1, 2, 3}
    assert "drills.py" in stacks[1]
    assert stacks[1] in hang.message

    os.kill(running_nodes(lab.cluster)["node-3"], signal.SIGKILL)
    wait(lambda: found(lab, "elastic", "SHRUNK"), "the run goes on with one node")
    lab.wait_step("elastic", 1, epoch=lab.get_run("elastic").status.epoch)
    assert lab.get_run("elastic").status.nodes == 1
    start_node(lab.cluster, "node-3", gpus=2)
    wait(lambda: found(lab, "elastic", "GROWN"), "the run takes the node back")
    run = lab.wait_state("elastic", *ENDED)
    assert run.status.state == pb.TRAINING_RUN_STATE_SUCCEEDED, run.status.reason
    assert [event.data["nodes"] for event in found(lab, "elastic", "GROWN")] == [2]
    assert run.status.eta_error > 0, "how wrong the first estimate was: it knew of no fault"
    rows = lab.rows("elastic")
    assert sorted({row.step for row in rows}) == list(range(1, 71))
    tokens = {row.tokens - before.tokens for before, row in itertools.pairwise(rows)}
    assert len(tokens) == 1, "the global batch stays what it is"
