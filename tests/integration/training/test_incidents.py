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

pytestmark = pytest.mark.timeout(300)
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
    lab.create_run("loader", config(steps=400), drill="loader=0.0005", nodes=1)
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
    for run in ("loader", "order"):
        lab.cancel(run)
    for run in ("loader", "order"):
        lab.wait_state(run, "CANCELLED")


def test_wrong_result_is_traced_to_its_node_in_two_rounds_and_the_node_is_left(lab: Lab) -> None:
    drill = "corrupt=12@epoch=1,gemm=0.2@node=node-1"
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
    lab.create_run("checked", config(steps=10), drill="gemm=0.2@node=node-0", nodes=2, preflight="full")
    run = lab.wait_state("checked", *ENDED)
    assert run.status.state == pb.TRAINING_RUN_STATE_SUCCEEDED, run.status.reason
    assert [(i.cause, i.node) for i in run.status.incidents] == [("NODE_FAULTY", "node-0")]
    assert "nodes/node-0" in [request.name for request in lab.upstream.quarantined]
    kinds = ["PREFLIGHT_STARTED", "NODES_SUSPECTED", "NODE_ACCUSED"]
    assert [event.type for event in lab.events("checked") if event.type in kinds] == [*kinds[:2], "NODE_ACCUSED"]
    lines = {(line.node, line.check): line.passed for line in run.status.checks}
    used = {event.data["node"] for event in found(lab, "checked", "CHECKED")}
    assert used is not None
    assert {node for node, _ in lines} != {"node-0"}
    assert {"gemm", "gpu_memory", "all_reduce", "storage", "data", "resume", "evaluation"} <= {c for _, c in lines}
    assert all(lines.values()), lines


def test_hang_is_found_told_with_the_stacks_of_the_ranks_and_ended(lab: Lab) -> None:
    lab.create_run("hung", config(steps=16), drill="hang=8@rank=1@epoch=1", nodes=1, gpus_per_node=2)
    run = lab.wait_state("hung", *ENDED)
    assert run.status.state == pb.TRAINING_RUN_STATE_SUCCEEDED, run.status.reason
    (incident,) = run.status.incidents
    assert (incident.cause, incident.action) == ("HANG", pb.RECOVERY_ACTION_PROCESS)
    stacks = {int(event.data["rank"]): event for event in found(lab, "hung", "STACKS")}
    assert set(stacks) == {0, 1}
    assert "drills.py" in stacks[1].message
    assert stacks[1].message in incident.message


def test_preempted_run_is_requeued_with_its_checkpoint_and_goes_on_with_fewer_nodes(lab: Lab) -> None:
    lab.create_run("low", config(steps=40), step_seconds=0.05, nodes=2, gpus_per_node=2)
    lab.wait_step("low", 5)
    lab.create_run("high", config(steps=40), step_seconds=0.05, nodes=1, gpus_per_node=2, priority=10)
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
    assert [row.step for row in rows] == list(range(1, 41))
    assert not [row for row in rows if row.replayed], "a checkpoint was written before the nodes were given back"
    assert min(row.step for row in rows if row.epoch == 2) == made + 1
    assert not lab.get_run("low").status.incidents


def test_elastic_run_goes_on_without_a_lost_node_and_takes_it_back(lab: Lab) -> None:
    lab.create_run("elastic", config(steps=120), step_seconds=0.04, nodes=2, gpus_per_node=2, minimum_nodes=1)
    lab.wait_step("elastic", 12)
    os.kill(running_nodes(lab.cluster)["node-3"], signal.SIGKILL)
    wait(lambda: found(lab, "elastic", "SHRUNK"), "the run goes on with one node")
    shrunk = lab.get_run("elastic").status.epoch
    lab.wait_step("elastic", 1, epoch=shrunk)
    assert lab.get_run("elastic").status.nodes == 1
    start_node(lab.cluster, "node-3", gpus=2)
    wait(lambda: found(lab, "elastic", "GROWN"), "the run takes the node back")
    run = lab.wait_state("elastic", *ENDED)
    assert run.status.state == pb.TRAINING_RUN_STATE_SUCCEEDED, run.status.reason
    rows = lab.rows("elastic")
    assert sorted({row.step for row in rows}) == list(range(1, 121))
    tokens = {row.tokens - before.tokens for before, row in itertools.pairwise(rows)}
    assert len(tokens) == 1, "the global batch stays what it is"
    assert [event.data["nodes"] for event in found(lab, "elastic", "GROWN")] == [2]
