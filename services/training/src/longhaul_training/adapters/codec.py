"""The controller's records as JSON, as the database keeps them."""

from __future__ import annotations

from typing import Any

from longhaul_core.db import ResourceRow
from longhaul_core.recipe import PodConfig
from pydantic import TypeAdapter

from longhaul_training.domain.reports import Reports
from longhaul_training.domain.states import Control, Desired, Run, RunSpec
from longhaul_training.domain.tasks import Task, TaskControl, TaskSpec

_CONTROL = TypeAdapter(Control)
_DESIRED = TypeAdapter(Desired)
_REPORTS = TypeAdapter(Reports)
_RUN_SPEC = TypeAdapter(RunSpec)
_TASK_CONTROL = TypeAdapter(TaskControl)
_TASK_SPEC = TypeAdapter(TaskSpec)


def dump_control(control: Control) -> dict[str, Any]:
    """Control as JSON values."""
    return dict(_CONTROL.dump_python(control, mode="json"))


def dump_desired(desired: Desired) -> dict[str, Any]:
    """Desired as JSON values."""
    return dict(_DESIRED.dump_python(desired, mode="json"))


def load_desired(value: Any) -> Desired:
    """Desired from JSON values."""
    return _DESIRED.validate_python(value)


def dump_reports(reports: Reports) -> dict[str, Any]:
    """Reports as JSON values."""
    return dict(_REPORTS.dump_python(reports, mode="json"))


def load_reports(row: ResourceRow) -> Reports:
    """Reports of a run's row."""
    return _REPORTS.validate_python(row.status.get("reports", {}))


def load_run(row: ResourceRow) -> Run:
    """The run of a row."""
    resources = row.spec["resources"]
    pod = load_pod_config(row)
    return Run(
        project=row.project,
        id=row.id,
        uid=row.uid,
        spec=_RUN_SPEC.validate_python(
            {
                "pods": resources["nodes"],
                "gpus_per_pod": resources["gpus_per_node"],
                "spares": resources["spares"],
                "priority": resources["priority"],
                "pool": resources["pool"],
                "token_set": row.spec["token_set"],
                "node_selector": tuple(sorted(pod.node_selector.items())),
                "tolerations": tuple((item.key, item.value) for item in pod.tolerations),
                "topology_label": pod.topology_label,
            }
        ),
        control=_CONTROL.validate_python(row.status["control"]),
        desired=load_desired(row.status["desired"]),
        created_at=row.created_at.timestamp(),
    )


def load_pod_config(row: ResourceRow) -> PodConfig:
    """What a run's pods ask for beside GPUs."""
    return PodConfig.model_validate(row.spec["resources"].get("pod", {}))


def dump_task_control(control: TaskControl) -> dict[str, Any]:
    """TaskControl as JSON values."""
    return dict(_TASK_CONTROL.dump_python(control, mode="json"))


def load_task(row: ResourceRow) -> Task:
    """The task of a row."""
    return Task(
        project=row.project,
        id=row.id,
        uid=row.uid,
        spec=_TASK_SPEC.validate_python(row.spec),
        control=_TASK_CONTROL.validate_python(row.status["control"]),
        cancelled=bool(row.status.get("cancelled", False)),
        created_at=row.created_at.timestamp(),
    )
