"""What a run goes through, the same on every cluster: on local nodes, on a Kubernetes API in memory and on a real one.

A test file of each of them takes these tests with a fixture `lab` of its own, three nodes of one GPU each. Pods are
processes of this machine everywhere, since where there is no kubelet the suite plays it through the API.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Protocol

import pytest
from longhaul.training.v1 import training_run_pb2 as pb
from longhaul_core.metric_journal import JournalSpan, journal_prefix
from longhaul_core.objects import open_store
from training_harness import Service, Upstream, config, run_name, wait

STEPS = 80
STEP_SECONDS = 0.1
LONG_STEP_SECONDS = 0.5
"""Where a service is started again, or another run, before the run may be over."""
SILENCE_SECONDS = 15
"""An agent that says nothing for as long has lost its pod: what is found sooner was found by another sign."""
LONG = config(steps=STEPS)
LENDING = config(steps=STEPS, checkpoint={"every_steps": 10, "peer_memory_bytes": 1 << 24})
"""The same steps; each node holds the parts of the other in memory."""


class ClusterLab(Protocol):
    """The training service on some cluster: the operator's view of it, and the powers that only a test has.

    `training_harness.Lab` has all but the last six for every cluster.
    """

    runs: Any
    upstream: Upstream
    training: Service
    objects_url: str

    def create_run(self, run_id: str, config: dict[str, Any], **options: Any) -> pb.TrainingRun: ...
    def get_run(self, run_id: str) -> pb.TrainingRun: ...
    def cancel(self, run_id: str) -> None: ...
    def state(self, run_id: str) -> str: ...
    def wait_state(self, run_id: str, *states: str) -> pb.TrainingRun: ...
    def wait_step(self, run_id: str, step: int, epoch: int = 1) -> None: ...
    def wait_ready(self) -> None: ...
    def rank(self, run_id: str, rank: int, epoch: int = 1) -> pb.RankStatus: ...
    def events(self, run_id: str) -> list[Any]: ...
    def rows(self, run_id: str) -> list[pb.StepMetrics]: ...
    def losses(self, run_id: str) -> dict[int, float]: ...
    def agent_process(self, pod: str) -> int: ...
    def pods(self) -> list[str]:
        """Names of the pods that the cluster has."""

    def left_of(self, run_id: str) -> list[str]:
        """All that the cluster still has of a run."""

    def check_pods(self, run_id: str) -> None:
        """Asserts what this kind of cluster promises of a run's pods beside that they run."""

    def lose_node(self, node: str) -> None:
        """The machine loses its power."""

    def return_node(self, node: str) -> None:
        """The machine is back; what ran on it is not."""


def paced(*steps: float) -> str:
    """Seconds of the steps of epoch 1, 2, …, so that the run is met in the middle of them on any machine."""
    return ",".join(f"step={seconds}@epoch={epoch}" for epoch, seconds in enumerate(steps, start=1))


def lose_pod(lab: ClusterLab, pod: str) -> None:
    os.kill(lab.agent_process(pod), signal.SIGKILL)


def recovered(lab: ClusterLab, run: str, number: int) -> pb.Incident:
    """An incident once it is over; rows of the new epoch may be there before the controller has noted that."""

    def find() -> Any:
        incidents = lab.get_run(run).status.incidents
        return len(incidents) > number and incidents[number].HasField("recovered_time") and incidents[number]

    return wait(find, f"incident {number} of {run} is over")


def newest_journal(lab: ClusterLab, run: str) -> int:
    """Highest step whose row lies beside the checkpoints."""
    infos = open_store(lab.objects_url).list(journal_prefix("lab", run))
    return max((span.last for info in infos if (span := JournalSpan.parse(info.key))), default=0)


def wait_empty(lab: ClusterLab) -> None:
    wait(lambda: not lab.pods(), "the pods of the runs before are gone")


def ends_like(lab: ClusterLab, run_id: str, unbroken: dict[int, float]) -> pb.TrainingRun:
    run = lab.wait_state(run_id, "SUCCEEDED", "FAILED")
    assert run.status.state == pb.TRAINING_RUN_STATE_SUCCEEDED, run.status.reason
    assert lab.losses(run_id) == unbroken
    return run


@pytest.fixture(scope="module")
def unbroken(lab: ClusterLab) -> dict[int, float]:
    """Losses of a run that met no fault."""
    wait_empty(lab)
    lab.create_run("plain", LONG)
    run = lab.wait_state("plain", "SUCCEEDED", "FAILED")
    assert run.status.state == pb.TRAINING_RUN_STATE_SUCCEEDED, run.status.reason
    return lab.losses("plain")


def test_run_makes_every_step_leaves_nothing_in_the_cluster_and_its_logs_and_metrics_stay(
    lab: ClusterLab, unbroken: dict[int, float]
) -> None:
    run = lab.get_run("plain")
    assert (run.status.progress.fraction, run.status.epoch, list(run.status.incidents)) == (1.0, 1, [])
    assert sorted(unbroken) == list(range(1, STEPS + 1))
    wait(lambda: not lab.left_of("plain"), "nothing is left of an ended run")
    lines = [
        line
        for response in lab.runs.ReadLogs(pb.ReadLogsRequest(name=run_name("plain"), rank=0, follow=True))
        for line in response.lines
    ]
    assert sum("checkpoint committed" in line.text for line in lines) == STEPS // 10
    assert {(line.rank, line.epoch, line.pod) for line in lines} == {(0, 1, "lab.run-plain-0-1")}
    last = next(iter(lab.runs.ReadLogs(pb.ReadLogsRequest(name=run_name("plain"), rank=0, tail_lines=1))))
    assert [line.text for line in last.lines] == [lines[-1].text]
    streamed = [
        row
        for response in lab.runs.WatchStepMetrics(pb.WatchStepMetricsRequest(name=run_name("plain")))
        for row in response.rows
    ]
    assert {row.step: row.loss for row in streamed} == unbroken


def test_lost_pod_then_controller_and_all_pods_lost_leave_the_losses_of_the_unbroken_run(
    lab: ClusterLab, unbroken: dict[int, float]
) -> None:
    wait_empty(lab)
    lab.create_run("broken", LONG, drill=paced(STEP_SECONDS, LONG_STEP_SECONDS))
    lab.wait_step("broken", 12)
    lost = lab.rank("broken", 1)
    lose_pod(lab, lost.pod)
    lab.wait_step("broken", 1, epoch=2)
    incident = recovered(lab, "broken", 0)
    assert incident.action == pb.RECOVERY_ACTION_POD
    assert incident.detect_seconds < SILENCE_SECONDS
    assert incident.resume_step in range(10, incident.fault_step + 1, 10)
    again = lab.rank("broken", 1, epoch=2)
    assert (again.pod, again.node) == ("lab.run-broken-1-2", lost.node)

    processes = {rank.rank: rank.process_id for rank in lab.get_run("broken").status.ranks}
    lab.training.kill()
    lab.training.start()
    lab.wait_ready()
    ranks = wait(lambda: len(found := lab.get_run("broken").status.ranks) == 2 and found, "both agents are back")
    assert {rank.rank: rank.process_id for rank in ranks} == processes, "the pods went on without the controller"
    assert lab.get_run("broken").status.epoch == 2

    pods, reported = {rank.pod for rank in lab.get_run("broken").status.ranks}, max(lab.losses("broken"))
    lab.training.kill()
    wait(lambda: newest_journal(lab, "broken") > reported, "a checkpoint is ahead of the rows that were reported")
    for pod in pods:
        lose_pod(lab, pod)
    lab.training.start()
    lab.wait_ready()
    run = ends_like(lab, "broken", unbroken)
    assert run.status.incidents[-1].resume_step > reported, "the fault fired: rows were left to the journal"
    assert [row.step for row in lab.rows("broken") if row.replayed]
    time_spent = run.status.time
    assert time_spent.recovery_seconds > 0
    assert time_spent.replay_seconds > 0
    assert 0 < time_spent.goodput < 1


def test_drained_node_and_lost_node_are_left_for_the_spare_without_another_loss(
    lab: ClusterLab, unbroken: dict[int, float]
) -> None:
    wait_empty(lab)
    lab.create_run("moved", LENDING, spares=1, drill=paced(STEP_SECONDS, 2 * STEP_SECONDS))
    lab.wait_step("moved", 13)
    lab.check_pods("moved")
    node = lab.rank("moved", 0).node
    lab.upstream.ask_drain(node, computes=True)
    lab.wait_step("moved", 1, epoch=2)
    incident = recovered(lab, "moved", 0)
    assert (incident.cause, incident.action) == ("NODE_QUARANTINED", pb.RECOVERY_ACTION_NODE)
    assert incident.resume_step >= 13
    assert node not in {rank.node for rank in lab.get_run("moved").status.ranks}
    wait(lambda: [a for a in lab.upstream.acknowledged if a.name == f"nodes/{node}"], "the drain is acknowledged")
    assert not [row for row in lab.rows("moved") if row.replayed], "a checkpoint was written for the drain"
    lab.upstream.withdraw(node)

    lab.wait_step("moved", incident.resume_step + 15, epoch=2)
    gone = lab.rank("moved", 1, epoch=2)
    lab.lose_node(gone.node)
    lab.wait_step("moved", 1, epoch=3)
    restored = [event for event in lab.events("moved") if event.type == "RESTORED" and event.data["epoch"] > 2]
    assert restored[-1].data["bytes_peer"] > 0, "the other node had its parts"
    lost = lab.get_run("moved").status.incidents[1]
    assert (lost.action, lost.node) == (pb.RECOVERY_ACTION_NODE, gone.node)
    assert lost.detect_seconds > 0
    assert gone.node not in {rank.node for rank in lab.get_run("moved").status.ranks}
    wait(lambda: gone.pod not in lab.pods(), "the pod of the dead node is removed by force")
    lab.return_node(gone.node)
    ends_like(lab, "moved", unbroken)
    wait(lambda: not lab.left_of("moved"), "nothing is left in the cluster")


def test_gang_that_does_not_fit_says_why_and_starts_whole_when_the_other_is_paused_which_then_resumes(
    lab: ClusterLab, unbroken: dict[int, float]
) -> None:
    wait_empty(lab)
    lab.create_run("holds", LONG, drill=paced(LONG_STEP_SECONDS))
    lab.wait_step("holds", 5)
    lab.create_run("waits", LONG, drill=paced(LONG_STEP_SECONDS))
    pending = wait(lambda: lab.get_run("waits").status.pending_reason, "it is said why the run waits")
    assert pending == "needs 2 node(s) with 1 free GPU(s) each; 1 GPU(s) are free"
    assert not [pod for pod in lab.pods() if "waits" in pod], "a part of the gang was started"

    lab.runs.PauseTrainingRun(pb.PauseTrainingRunRequest(name=run_name("holds")))
    lab.wait_state("holds", "PAUSED")
    made = max(row.step for row in lab.rows("holds"))
    lab.wait_step("waits", 1)
    assert sorted(pod for pod in lab.pods() if "holds" not in pod) == ["lab.run-waits-0-1", "lab.run-waits-1-1"]
    lab.runs.ResumeTrainingRun(pb.ResumeTrainingRunRequest(name=run_name("holds")))
    wait(lambda: lab.get_run("holds").status.reason.code == "NO_CAPACITY", "the resumed run waits in its turn")

    lab.cancel("waits")
    lab.wait_state("waits", "CANCELLED")
    run = ends_like(lab, "holds", unbroken)
    assert min(row.step for row in lab.rows("holds") if row.epoch > 1) == made + 1, "a step was made again"
    assert run.status.time.paused_seconds > 0
    wait(lambda: not lab.left_of("waits"), "nothing is left of a cancelled run")
    lab.cancel("waits")
    assert lab.state("waits") == "CANCELLED"


def test_what_a_pod_writes_before_its_agent_starts_is_read_through_the_cluster(lab: ClusterLab, tmp_path: Path) -> None:
    wait_empty(lab)
    said = "no agent is there yet"
    # Python runs this before the agent, which then never comes.
    (tmp_path / "sitecustomize.py").write_text(f"import time; print({said!r}, flush=True); time.sleep(3600)")
    lab.create_run("mute", LONG, nodes=1, env={"PYTHONPATH": str(tmp_path)})

    def read() -> list[Any]:
        return [
            line for answer in lab.runs.ReadLogs(pb.ReadLogsRequest(name=run_name("mute"))) for line in answer.lines
        ]

    lines = wait(read, "the pod's output is read")
    assert [(line.text, line.rank, line.pod) for line in lines] == [(said, -1, "lab.run-mute-0-1")]
    lab.cancel("mute")
    lab.wait_state("mute", "CANCELLED")
    wait(lambda: not lab.left_of("mute"), "the pod that never spoke is gone")
