"""`python -m longhaul_training.guard [--force=true]`: fails while runs or tasks live; charts ask it before they go.

It asks the service at LONGHAUL_TRAINING_ADDRESS. A service that does not answer counts as one with live runs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from longhaul.common.v1 import resource_pb2
from longhaul.training.v1 import task_pb2, task_pb2_grpc, training_run_pb2, training_run_pb2_grpc
from longhaul_core.errors import LonghaulError
from longhaul_core.rpc.client import connect_sync, rpc_errors
from longhaul_core.settings import load_settings

from longhaul_training.settings import TrainingSettings

EXIT_LIVE = 1
ALL_PROJECTS = "projects/-"
PAGE = 1000
SHOWN = 10
FORCE = "--force=true"

_HINT = "cancel them (longhaul runs cancel NAME) or wait; docs/deploy.md says how to go on all the same"


def main(arguments: Sequence[str]) -> int:
    """Return 0 where nothing lives, or when forced; else say what lives."""
    force = FORCE in arguments
    try:
        settings = load_settings(TrainingSettings)
        with (
            rpc_errors(),
            connect_sync(
                settings.training_address, token=settings.api_token.get_secret_value() or None, tls_ca=settings.tls_ca
            ) as channel,
        ):
            live = [*_live_runs(channel), *_live_tasks(channel)]
    except LonghaulError as error:
        sys.stderr.write(f"guard: cannot tell whether runs live: {error}; {_HINT}\n")
        return 0 if force else EXIT_LIVE
    if not live:
        sys.stdout.write("guard: no run and no task lives\n")
        return 0
    shown = ", ".join(live[:SHOWN]) + (f" and {len(live) - SHOWN} more" if len(live) > SHOWN else "")
    sys.stderr.write(f"guard: {len(live)} live: {shown}; {'forced' if force else _HINT}\n")
    return 0 if force else EXIT_LIVE


def _live_runs(channel: grpc.Channel) -> Iterator[str]:
    stub, states = training_run_pb2_grpc.TrainingRunServiceStub(channel), training_run_pb2.TrainingRunState
    ended = {
        states.TRAINING_RUN_STATE_SUCCEEDED,
        states.TRAINING_RUN_STATE_FAILED,
        states.TRAINING_RUN_STATE_CANCELLED,
    }
    request = training_run_pb2.ListTrainingRunsRequest(parent=ALL_PROJECTS, page_size=PAGE)
    for page in _pages(stub.ListTrainingRuns, request):
        yield from (run.metadata.name for run in page.training_runs if run.status.state not in ended)


def _live_tasks(channel: grpc.Channel) -> Iterator[str]:
    stub, states = task_pb2_grpc.TaskServiceStub(channel), resource_pb2.JobState
    ended = {states.JOB_STATE_SUCCEEDED, states.JOB_STATE_FAILED, states.JOB_STATE_CANCELLED}
    request = task_pb2.ListTasksRequest(parent=ALL_PROJECTS, page_size=PAGE)
    for page in _pages(stub.ListTasks, request):
        yield from (task.metadata.name for task in page.tasks if task.status.state not in ended)


def _pages(method: Any, request: Any) -> Iterator[Any]:
    while True:
        page = method(request)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
