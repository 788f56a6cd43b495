"""Runs on real pods of local nodes: the suite for every cluster, and what only this one can show."""

from __future__ import annotations

import json
import os
import signal

import pytest
from longhaul.common.v1 import resource_pb2
from longhaul.training.v1 import training_run_pb2 as pb
from longhaul_core.objects import open_store
from recovery_contract import *  # noqa: F403 (the tests themselves)
from recovery_contract import LONG, LONG_STEP_SECONDS, SILENCE_SECONDS, STEP_SECONDS, paced, recovered, wait_empty
from training_harness import Lab, wait

pytestmark = pytest.mark.timeout(600)


def test_killed_worker_is_restarted_in_place_and_a_task_leaves_the_spare_alone(lab: Lab) -> None:
    wait_empty(lab)
    lab.create_run("guarded", LONG, spares=1, drill=paced(STEP_SECONDS, LONG_STEP_SECONDS))
    lab.wait_step("guarded", 12)
    victim = lab.rank("guarded", 1)
    os.kill(victim.process_id, signal.SIGKILL)
    lab.wait_step("guarded", 1, epoch=2)
    incident = recovered(lab, "guarded", 0)
    assert (incident.cause, incident.action) == ("WORKER_KILLED", pb.RECOVERY_ACTION_PROCESS)
    assert incident.detect_seconds < SILENCE_SECONDS
    assert incident.resume_step in range(10, incident.fault_step + 1, 10)
    assert incident.restore_seconds > 0
    assert incident.restart_seconds > 0
    assert lab.rank("guarded", 1, epoch=2).pod == victim.pod

    lab.create_burn_in("burn")
    waiting = wait(lambda: lab.get_task("burn").status.pending_reason)
    assert waiting == "needs 1 GPU(s); 0 free, 0 kept as spares of training runs"
    lab.cancel("guarded")
    lab.wait_state("guarded", "CANCELLED")
    wait(lambda: not lab.left_of("guarded"), "a cancelled run has no pods")
    task = wait(lambda: (t := lab.get_task("burn")).status.HasField("end_time") and t, "the task ends")
    assert task.status.state == resource_pb2.JOB_STATE_SUCCEEDED, task.status.reason
    result = json.loads(open_store(lab.objects_url).get("projects/lab/burn.json"))
    assert result["passed"]
