"""The controller's records as JSON, as the database keeps them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

from longhaul_core.db import ResourceRow
from longhaul_core.recipe import PodConfig, TrainerConfig
from pydantic import TypeAdapter

from longhaul_training.domain.reports import Reports
from longhaul_training.domain.spares import sized_spares
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
    desired = load_desired(row.status["desired"])
    pods, gpus = desired.nodes or resources["nodes"], resources["gpus_per_node"]
    return Run(
        project=row.project,
        id=row.id,
        uid=row.uid,
        spec=_RUN_SPEC.validate_python(
            {
                "pods": pods,
                "gpus_per_pod": gpus,
                "spares": _spares(resources, pods),
                "priority": resources["priority"],
                "pool": resources["pool"],
                "token_set": row.spec["token_set"],
                "node_selector": tuple(sorted(pod.node_selector.items())),
                "tolerations": tuple((item.key, item.value) for item in pod.tolerations),
                "topology_label": pod.topology_label,
                "steps": row.spec["trainer_config"].get("steps", 0),
                "elastic_sizes": _elastic_sizes(row.spec["trainer_config"], resources, pods),
                "full_preflight": resources.get("preflight", "") == "full",
            }
        ),
        control=_CONTROL.validate_python(row.status["control"]),
        desired=desired,
        created_at=row.created_at.timestamp(),
    )


def load_pod_config(row: ResourceRow) -> PodConfig:
    """What a run's pods ask for beside GPUs."""
    return PodConfig.model_validate(row.spec["resources"].get("pod", {}))


def _spares(resources: Mapping[str, Any], pods: int) -> int:
    rate = float(resources.get("node_failures_per_day", 0.0))
    sized = sized_spares(pods, rate, float(resources.get("node_repair_hours", 0.0)))
    return max(int(resources["spares"]), sized)


def _elastic_sizes(trainer_config: Mapping[str, Any], resources: Mapping[str, Any], pods: int) -> tuple[int, ...]:
    """Numbers of nodes below the wanted one over which the global batch still divides."""
    least = int(resources.get("minimum_nodes", 0))
    if not 0 < least < pods:
        return ()
    return fitting_sizes(json.dumps(trainer_config, sort_keys=True), least, pods, int(resources["gpus_per_node"]))


@lru_cache(maxsize=1024)
def fitting_sizes(trainer_config: str, least: int, below: int, gpus: int) -> tuple[int, ...]:
    """Numbers of nodes from `least` up over which a configuration divides, its data-parallel degree left open."""
    config = TrainerConfig.model_validate_json(trainer_config)
    open_config = config.model_copy(update={"layout": config.layout.model_copy(update={"data_parallel": 0})})
    sizes = []
    for nodes in range(least, below):
        with suppress(ValueError):
            open_config.check_world_size(nodes * gpus)
            sizes.append(nodes)
    return tuple(sizes)


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
