"""Waits for tasks."""

import time

from longhaul.common.v1 import resource_pb2
from longhaul.training.v1 import task_pb2
from longhaul_core.errors import FailedPrecondition

from longhaul_client.sdk import Client, call

PAUSE_SECONDS = 0.3
_OVER = frozenset({resource_pb2.JOB_STATE_SUCCEEDED, resource_pb2.JOB_STATE_FAILED, resource_pb2.JOB_STATE_CANCELLED})


def await_end(client: Client, name: str) -> task_pb2.Task:
    """Return a task once it is over, whatever its end."""
    while True:
        task = call(client.tasks.GetTask, task_pb2.GetTaskRequest(name=name))
        if task.status.state in _OVER:
            return task
        time.sleep(PAUSE_SECONDS)


def await_task(client: Client, name: str) -> task_pb2.Task:
    """Return a task once it has succeeded.

    Raises:
        FailedPrecondition: it failed or was cancelled (TASK_FAILED).
    """
    task = await_end(client, name)
    if task.status.state != resource_pb2.JOB_STATE_SUCCEEDED:
        reason = task.status.reason
        raise FailedPrecondition(
            f"task {name} did not succeed: {reason.message or reason.code}",
            reason="TASK_FAILED",
            metadata={"task": name, "exit_code": str(task.status.exit_code)},
            action=reason.action or "look at the task's log, mend the cause, and ask again",
        )
    return task
