"""Runs on real pods: what breaks them, and that they end as if nothing had."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
from longhaul.common.v1 import resource_pb2
from longhaul.training.v1 import training_run_pb2 as pb
from longhaul_core.cluster.local.launch import running_nodes, start_node
from longhaul_core.metric_journal import JournalSpan, journal_prefix
from longhaul_core.objects import open_store
from training_harness import Lab, config, run_name, wait

STEPS = 240
STEP_SECONDS = 0.03
"""What a step takes at least where a fault is to happen in the middle of a run, however fast the machine is."""
LONG = config(steps=STEPS)

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def unbroken(lab: Lab) -> dict[int, float]:
    """Losses of a run that waited for its token set and then met no fault."""
    lab.create_run("plain", LONG)
    lab.wait_state("plain", "WAITING_FOR_INPUTS")
    lab.upstream.add_token_set(lab.token_set_key)
    run = lab.wait_state("plain", "SUCCEEDED", "FAILED")
    assert run.status.state == pb.TRAINING_RUN_STATE_SUCCEEDED, run.status.reason
    assert run.status.progress.fraction == 1.0
    assert not run.status.incidents
    wait(lambda: not lab.pods(), "pods of an ended run are deleted")
    losses = lab.losses("plain")
    assert sorted(losses) == list(range(1, STEPS + 1))
    return losses


def first_recovered(lab: Lab, run: str) -> pb.Incident:
    """The first incident once it is over; rows of the new epoch may be there before the controller has noted that."""
    return wait(lambda: [i for i in lab.get_run(run).status.incidents if i.HasField("recovered_time")])[0]


def newest_journal(lab: Lab, run: str) -> int:
    """Highest step whose row lies beside the checkpoints."""
    infos = open_store(lab.objects_url).list(journal_prefix("lab", run))
    return max((span.last for info in infos if (span := JournalSpan.parse(info.key))), default=0)


def test_worker_agent_controller_and_all_killed_leave_the_losses_of_the_unbroken_run(
    lab: Lab, unbroken: dict[int, float]
) -> None:
    lab.create_run("broken", LONG, spares=1, step_seconds=STEP_SECONDS)

    lab.wait_step("broken", 12)
    os.kill(lab.rank("broken", 1).process_id, signal.SIGKILL)
    killed = time.monotonic()
    lab.wait_step("broken", 1, epoch=2)
    assert time.monotonic() - killed < 15
    incident = first_recovered(lab, "broken")
    assert incident.cause == "WORKER_KILLED"
    assert incident.action == pb.RECOVERY_ACTION_PROCESS
    assert incident.detect_seconds < 3
    assert incident.resume_step in range(10, incident.fault_step + 1, 10)
    assert 0 < incident.restore_seconds < incident.restart_seconds + incident.restore_seconds < 15

    lab.wait_step("broken", 32, epoch=2)
    victim = lab.rank("broken", 1, epoch=2)
    os.kill(lab.agent_process(victim.pod), signal.SIGKILL)
    lab.wait_step("broken", 1, epoch=3)
    assert lab.get_run("broken").status.incidents[1].action == pb.RECOVERY_ACTION_POD

    lab.wait_step("broken", 52, epoch=3)
    processes = {rank.rank: rank.process_id for rank in lab.get_run("broken").status.ranks}
    lab.training.kill()
    lab.training.start()
    lab.wait_ready()
    lab.wait_step("broken", 72, epoch=3)
    after = wait(lambda: {r.rank: r.process_id for r in lab.get_run("broken").status.ranks})
    assert after == processes
    assert lab.get_run("broken").status.epoch == 3

    status = lab.get_run("broken").status
    pods = {rank.pod for rank in status.ranks}
    reported = max(lab.losses("broken"))
    lab.training.kill()
    wait(lambda: newest_journal(lab, "broken") >= reported + 30, "checkpoints are ahead of the rows that were reported")
    for pod in pods:
        os.kill(lab.agent_process(pod), signal.SIGKILL)
    lab.training.start()
    lab.wait_ready()
    run = lab.wait_state("broken", "SUCCEEDED", "FAILED")
    assert run.status.state == pb.TRAINING_RUN_STATE_SUCCEEDED, run.status.reason
    assert lab.losses("broken") == unbroken
    assert run.status.incidents[-1].resume_step > reported, "the fault fired: rows were left to the journal"
    assert [row.step for row in lab.rows("broken") if row.replayed]
    time_spent = run.status.time
    assert time_spent.recovery_seconds > 0
    assert time_spent.replay_seconds > 0
    assert 0 < time_spent.goodput < 1


def test_drained_node_killed_node_and_pause_leave_the_losses_of_the_unbroken_run(
    lab: Lab, unbroken: dict[int, float]
) -> None:
    wait(lambda: not lab.pods(), "the pods of the run before are gone")
    lab.create_run("moved", LONG, spares=1, step_seconds=STEP_SECONDS)
    lab.wait_step("moved", 13)
    node = lab.rank("moved", 0).node
    lab.upstream.ask_drain(node, computes=True)
    lab.wait_step("moved", 1, epoch=2)
    incident = first_recovered(lab, "moved")
    assert incident.cause == "NODE_QUARANTINED"
    assert incident.action == pb.RECOVERY_ACTION_NODE
    assert incident.resume_step >= 13
    assert node not in {rank.node for rank in lab.get_run("moved").status.ranks}
    wait(lambda: [a for a in lab.upstream.acknowledged if a.session == "s1"], "the drain is acknowledged")
    assert not [row for row in lab.rows("moved") if row.replayed], "a checkpoint was written for the drain"
    lab.upstream.withdraw(node)

    lab.wait_step("moved", 33, epoch=2)
    node = lab.rank("moved", 1, epoch=2).node
    os.kill(running_nodes(lab.cluster)[node], signal.SIGKILL)
    killed = time.monotonic()
    lab.wait_step("moved", 1, epoch=3)
    assert time.monotonic() - killed < 60
    lost = lab.get_run("moved").status.incidents[1]
    assert lost.action == pb.RECOVERY_ACTION_NODE
    assert lost.node == node
    assert lost.detect_seconds < 5
    start_node(lab.cluster, node, gpus=1)

    lab.wait_step("moved", lost.fault_step + 5, epoch=3)
    lab.runs.PauseTrainingRun(pb.PauseTrainingRunRequest(name=run_name("moved")))
    lab.wait_state("moved", "PAUSED")
    wait(lambda: not lab.pods(), "a paused run has no pods")
    rows = lab.rows("moved")
    made, epoch = max(row.step for row in rows), max(row.epoch for row in rows)
    lab.runs.ResumeTrainingRun(pb.ResumeTrainingRunRequest(name=run_name("moved")))
    run = lab.wait_state("moved", "SUCCEEDED", "FAILED")
    assert run.status.state == pb.TRAINING_RUN_STATE_SUCCEEDED, run.status.reason
    assert lab.losses("moved") == unbroken
    assert min(row.step for row in lab.rows("moved") if row.epoch > epoch) == made + 1
    assert run.status.time.paused_seconds > 0


def test_task_leaves_the_spare_alone_and_runs_when_the_run_is_cancelled_which_stays_so(
    lab: Lab, unbroken: dict[int, float]
) -> None:
    wait(lambda: not lab.pods(), "the pods of the run before are gone")
    lab.create_run("guarded", LONG, spares=1, step_seconds=STEP_SECONDS)
    lab.wait_step("guarded", 1)
    lab.create_burn_in("burn")
    waiting = wait(lambda: lab.get_task("burn").status.pending_reason)
    assert waiting == "needs 1 GPU(s); 0 free, 0 kept as spares of training runs"
    lab.cancel("guarded")
    lab.wait_state("guarded", "CANCELLED")
    wait(lambda: not [pod for pod in lab.pods() if "guarded" in pod], "a cancelled run has no pods")
    lab.cancel("guarded")
    assert lab.state("guarded") == "CANCELLED"
    task = wait(lambda: (t := lab.get_task("burn")).status.HasField("end_time") and t, "the task ends")
    assert task.status.state == resource_pb2.JOB_STATE_SUCCEEDED, task.status.reason
    result = json.loads(open_store(lab.objects_url).get("projects/lab/burn.json"))
    assert result["passed"]


def test_logs_and_metrics_outlive_the_pods(lab: Lab, unbroken: dict[int, float]) -> None:
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
