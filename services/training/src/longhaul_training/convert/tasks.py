"""Tasks and projects."""

from __future__ import annotations

from typing import Any

from longhaul.common.v1 import resource_pb2
from longhaul.training.v1 import project_pb2, task_pb2
from longhaul_core.db import ResourceRow
from longhaul_core.errors import InvalidArgument
from longhaul_core.ids import check_id

from longhaul_training.adapters.task_store import StoredTask
from longhaul_training.convert.common import duration, metadata, plain, state_reason, struct, timestamp
from longhaul_training.domain.tasks import TaskState

COLLECTION = "tasks"

_KINDS = {
    task_pb2.TASK_KIND_SCORE: "SCORE",
    task_pb2.TASK_KIND_EXPORT: "EXPORT",
    task_pb2.TASK_KIND_BURN_IN: "BURN_IN",
    task_pb2.TASK_KIND_IMPORT: "IMPORT",
}
_KIND_VALUES = {name: kind for kind, name in _KINDS.items()}
_STATES = {state: resource_pb2.JobState.Value(f"JOB_STATE_{state.value}") for state in TaskState}


def task_spec_of(message: task_pb2.TaskSpec) -> dict[str, Any]:
    """A checked specification; raises InvalidArgument."""
    violations = []
    if message.kind not in _KINDS:
        violations.append(("spec.kind", "is not set"))
    if not message.result_key:
        violations.append(("spec.result_key", "is empty: the program must know where its result goes"))
    if message.gpus < 0 or message.retries < 0:
        violations.append(("spec.gpus", "must not be negative, nor retries"))
    if violations:
        listed = "; ".join(f"{field} {text}" for field, text in violations)
        raise InvalidArgument(f"the task can't be accepted: {listed}", reason="SPEC_INVALID", violations=violations)
    return {
        "kind": _KINDS[message.kind],
        "arguments": plain(message.arguments),
        "result_key": message.result_key,
        "gpus": message.gpus,
        "node": message.node,
        "timeout_seconds": message.timeout.ToNanoseconds() / 1e9,
        "retries": message.retries,
    }


def task_to_proto(stored: StoredTask) -> task_pb2.Task:
    """A task with its status."""
    task, spec = stored.task, stored.row.spec
    control = task.control
    status = task_pb2.TaskStatus(
        state=_STATES[control.state],
        reason=state_reason(control.reason),
        node=control.node,
        pod=task.pod_name if control.attempt else "",
        attempt=control.attempt,
        exit_code=control.exit_code or 0,
        pending_reason=control.reason.message if control.state is TaskState.QUEUED else "",
    )
    if control.started_at is not None:
        status.start_time.CopyFrom(timestamp(control.started_at))
    if control.ended_at is not None:
        status.end_time.CopyFrom(timestamp(control.ended_at))
    return task_pb2.Task(
        metadata=metadata(stored.row, task.name),
        spec=task_pb2.TaskSpec(
            kind=_KIND_VALUES[spec["kind"]],
            arguments=struct(spec["arguments"]),
            result_key=spec["result_key"],
            gpus=spec["gpus"],
            node=spec["node"],
            timeout=duration(spec["timeout_seconds"]),
            retries=spec["retries"],
        ),
        status=status,
    )


def project_id_of(name: str) -> str:
    """The id in `projects/{id}`; raises InvalidArgument."""
    if not name.startswith("projects/"):
        raise InvalidArgument(
            f"{name!r} is not a name of the form projects/PROJECT",
            reason="NAME_INVALID",
            violations=[("name", "is not of the form projects/PROJECT")],
        )
    return check_id(name.removeprefix("projects/"), "name")


def project_spec_of(message: project_pb2.ProjectSpec) -> dict[str, Any]:
    """A checked specification; what is left out gets its default; raises InvalidArgument."""
    if message.gpu_quota < 0:
        text = f"{message.gpu_quota} is negative; 0 is no limit"
        raise InvalidArgument(f"spec.gpu_quota: {text}", violations=[("spec.gpu_quota", text)])
    spec: dict[str, Any] = {"gpu_quota": message.gpu_quota, "priority": message.priority}
    if message.namespace:
        spec["namespace"] = check_id(message.namespace, "spec.namespace")
    return spec


def project_to_proto(row: ResourceRow, gpus_in_use: int, active: int, queued: int) -> project_pb2.Project:
    """A project with what it uses."""
    return project_pb2.Project(
        metadata=metadata(row, f"projects/{row.id}"),
        spec=project_pb2.ProjectSpec(**row.spec),
        status=project_pb2.ProjectStatus(
            gpus_in_use=gpus_in_use,
            runs_active=active,
            runs_queued=queued,
            store_prefix=f"projects/{row.id}/",
        ),
    )
