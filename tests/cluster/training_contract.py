"""A run on a Kubernetes API, with what goes wrong there. The same on the API in memory and on a real one.

The suite plays the kubelets: pods are processes of this machine that really train.
"""

from __future__ import annotations

import signal
from typing import Any

import psycopg
import pytest
from longhaul.training.v1 import training_run_pb2 as pb
from training_harness import config, wait
from training_lab import RACK, KubeLab, signalled


def test_evicted_pod_is_replaced_and_counts_as_no_failure(kube: KubeLab) -> None:
    kube.submit("evicted", config(steps=60), nodes=1)
    kube.wait_step("evicted", 12)
    kube.background.run(kube.kubelets.evict(kube.namespace, "lab.run-evicted-0-1"))
    kube.wait_state("evicted", "SUCCEEDED")
    status = kube.get_run("evicted").status
    assert set(status.restarts) <= {"POD_EVICTED", "WORKER_PREEMPTED"}
    assert sum(status.restarts.values()) >= 1
    assert sorted(kube.losses("evicted")) == list(range(1, 61))


@pytest.mark.needs_program("postgres")
def test_leader_paused_in_the_middle_of_a_write_is_deposed_and_does_nothing_more(kube: KubeLab) -> None:
    name = "projects/lab/trainingRuns/handed-over"
    kube.submit("handed-over", config(steps=900), nodes=1)
    kube.wait_step("handed-over", 3)
    kube.start_second()
    with psycopg.connect(kube.database) as ours, psycopg.connect(kube.database, autocommit=True) as watching:
        ours.execute("SELECT 1 FROM resources WHERE kind = 'training-run' AND id = 'handed-over' FOR UPDATE")
        waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%resources%'"
        wait(lambda: watching.execute(waits).fetchall(), "the leader is in the middle of a write")
        signalled(kube.training, signal.SIGSTOP)
    try:
        kube.second_runs.CancelTrainingRun(pb.CancelTrainingRunRequest(name=name))

        def cancelled() -> bool:
            run = kube.second_runs.GetTrainingRun(pb.GetTrainingRunRequest(name=name))
            return bool(run.status.state == pb.TRAINING_RUN_STATE_CANCELLED)

        wait(cancelled, "the other replica has taken over and cancels the run")
        wait(lambda: not kube.raw_pods("handed-over"), "its pods are gone")
        before = kube.second_runs.GetTrainingRun(pb.GetTrainingRunRequest(name=name))
    finally:
        signalled(kube.training, signal.SIGCONT)
    wait(lambda: b"leadership ended" in kube.training.log.read_bytes(), "the deposed leader notices")
    after = kube.runs.GetTrainingRun(pb.GetTrainingRunRequest(name=name))
    assert after.metadata.revision == before.metadata.revision
    assert not kube.raw_pods("handed-over")
    kube.second.stop()


@pytest.mark.parametrize(
    ("run_id", "resources", "pod", "code"),
    [
        ("no-pool", {"pool": "tpu"}, {}, "POOL_UNKNOWN"),
        ("no-label", {}, {"node_selector": {"gpu": "none"}}, "NO_MATCHING_NODE"),
        ("one-rack", {"nodes": 3}, {"topology_label": RACK}, "CLUSTER_TOO_SMALL"),
        ("no-image", {"image": "missing/trainer:1"}, {}, "IMAGE_UNAVAILABLE"),
        ("no-secret", {}, {"secrets": ["s3-key"]}, "SECRET_MISSING"),
        ("no-class", {}, {"priority_class": "gold"}, "REFERENCE_MISSING"),
        ("bad-pod", {}, {"overlay": {"spec": {"hostNetwork": True}}}, "OVERLAY_REFUSED"),
    ],
)
def test_what_cannot_run_is_a_state_that_says_what_to_do(
    kube: KubeLab, run_id: str, resources: dict[str, Any], pod: dict[str, Any], code: str
) -> None:
    # A batch that three nodes can share.
    kube.submit(
        run_id,
        config(steps=5, data={"sequence_length": 32, "global_batch_size": 12, "micro_batch_size": 2}),
        pod,
        **resources,
    )
    status = kube.wait_reason(run_id, code)
    assert status.reason.action
    assert status.reason.message
    kube.cancel(run_id)
    kube.wait_state(run_id, "CANCELLED", "FAILED")


def test_namespace_that_is_not_there_is_named(kube: KubeLab) -> None:
    kube.create_project_in("elsewhere", "longhaul-test-nowhere")
    parent = "projects/elsewhere"
    kube.submit("lost", config(steps=5), parent=parent)
    status = kube.wait_reason("lost", "NAMESPACE_NOT_FOUND", parent=parent)
    assert status.state == pb.TRAINING_RUN_STATE_QUEUED
    assert "longhaul-test-nowhere" in status.reason.action
    kube.cancel("lost", parent)
