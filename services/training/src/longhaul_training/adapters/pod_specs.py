"""Pods as the cluster is asked for them: names, labels and environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from longhaul_core.cluster import Gang, PodOwner, PodSpec, Toleration
from longhaul_core.recipe import PodConfig

from longhaul_training.adapters.pod_environment import PodEnvironment
from longhaul_training.adapters.pod_identity import PodIdentity
from longhaul_training.domain.actions import CreatePod
from longhaul_training.domain.states import Run, RunState
from longhaul_training.domain.tasks import CreateTaskPod, Task

LABEL_MANAGER = "longhaul.dev/managed-by"
LABEL_INSTALLATION = "longhaul.dev/installation"
LABEL_KIND = "longhaul.dev/kind"
LABEL_PROJECT = "longhaul.dev/project"
LABEL_OWNER = "longhaul.dev/owner"
LABEL_OWNER_UID = "longhaul.dev/owner-uid"
LABEL_SLOT = "longhaul.dev/slot"
LABEL_INCARNATION = "longhaul.dev/incarnation"
MANAGER = "training"
KIND_RUN = "run"
KIND_TASK = "task"

GIB = 1024**3
# Of a pod's grace, what the agent keeps for its last words after the workers' checkpoint.
FAREWELL_SECONDS = 5.0

_TASK_PROGRAMS = {"SCORE": "score", "EXPORT": "export", "BURN_IN": "burnin", "IMPORT": "import"}


def managed(installation: str) -> dict[str, str]:
    """Labels of all pods of this installation; another one in the same cluster has others."""
    return {LABEL_MANAGER: MANAGER, LABEL_INSTALLATION: installation}


def owner_name(run: Run) -> str:
    """Name of what owns a run's pods in the cluster."""
    return f"longhaul-{run.uid}"


def run_pod(
    run: Run,
    action: CreatePod,
    namespace: str,
    image: str,
    config: PodConfig,
    identity: PodIdentity,
    environment: PodEnvironment,
) -> PodSpec:
    """The pod of a slot's incarnation."""
    grace = config.grace_seconds or environment.grace_seconds
    env = {
        **config.env,
        **_common(run.project, action.pod, action.node, run.spec.gpus_per_pod, environment),
        **({"LONGHAUL_IMAGE": shown} if (shown := image or environment.image) else {}),
        "LONGHAUL_RUN": run.id,
        "LONGHAUL_SLOT": str(action.slot),
        "LONGHAUL_INCARNATION": str(action.incarnation),
        "LONGHAUL_AGENT_TOKEN": identity.issue(run.name, run.uid, action.slot, action.incarnation),
        "LONGHAUL_CONTROLLER_ADDRESSES": environment.controller_addresses,
        "LONGHAUL_GRACE_SECONDS": f"{max(grace - FAREWELL_SECONDS, grace / 2):g}",
        **_metrics(environment),
    }
    labels = {
        **_labels(KIND_RUN, run.project, run.id, run.uid, environment),
        LABEL_SLOT: str(action.slot),
        LABEL_INCARNATION: str(action.incarnation),
    }
    return PodSpec(
        name=action.pod,
        namespace=namespace,
        labels=labels,
        annotations=_scraped(environment),
        node=action.node,
        gpus=run.spec.gpus_per_pod,
        command=(environment.python, "-m", "longhaul_trainer.agent"),
        env=env,
        image=image or environment.image,
        tolerations=(*environment.tolerations, *(Toleration(item.key, item.value) for item in config.tolerations)),
        node_selector=config.node_selector,
        grace_seconds=grace,
        priority_class=config.priority_class,
        resources=config.resources,
        shared_memory_bytes=int(config.shared_memory_gib * GIB) or None,
        pull_secrets=tuple(config.pull_secrets),
        secret_env=(*environment.secrets, *config.secrets),
        overlay=config.overlay,
        owner=_owner(run, namespace, environment),
        gang=_gang(run, action.slot),
        **_container(environment),
    )


def _gang(run: Run, slot: int) -> Gang | None:
    """Those that a run is admitted with start together; the run does not wait for its spares."""
    if slot >= run.spec.pods:
        return None
    late = run.control.state is not RunState.ADMITTED
    return Gang(f"run-{run.uid[:12]}-{run.control.admissions}", run.spec.pods, late)


def task_pod(task: Task, action: CreateTaskPod, namespace: str, environment: PodEnvironment) -> PodSpec:
    """The pod of a task's attempt; one that is bound to a node tolerates whatever keeps others away."""
    env = {
        **_common(task.project, action.pod, action.node, task.spec.gpus, environment),
        "LONGHAUL_TASK": task.id,
        "LONGHAUL_TASK_ARGUMENTS": json.dumps(_integral(task.spec.arguments), sort_keys=True),
        "LONGHAUL_TASK_RESULT_KEY": task.spec.result_key,
    }
    return PodSpec(
        name=action.pod,
        namespace=namespace,
        labels=_labels(KIND_TASK, task.project, task.id, task.uid, environment),
        node=action.node,
        gpus=task.spec.gpus,
        command=(environment.python, "-m", "longhaul_trainer.tasks", _TASK_PROGRAMS[task.spec.kind]),
        env=env,
        tolerations=(Toleration(),) if task.spec.node else environment.tolerations,
        image=environment.image,
        grace_seconds=environment.grace_seconds,
        secret_env=environment.secrets,
        **_container(environment),
    )


def _container(environment: PodEnvironment) -> dict[str, Any]:
    """What a container needs and a process beside this service has already."""
    if not environment.in_containers:
        return {}
    return {"scratch_dir": str(environment.scratch_dir), "field_env": {"LONGHAUL_POD_IP": "status.podIP"}}


def _owner(run: Run, namespace: str, environment: PodEnvironment) -> PodOwner:
    labels = _labels(KIND_RUN, run.project, run.id, run.uid, environment)
    return PodOwner(owner_name(run), namespace, labels, {"run": run.name, "uid": run.uid})


def _common(project: str, pod: str, node: str, gpus: int, environment: PodEnvironment) -> dict[str, str]:
    return {
        "LONGHAUL_PROJECT": project,
        "LONGHAUL_POD": pod,
        "LONGHAUL_NODE": node,
        "LONGHAUL_GPUS": str(gpus),
        "LONGHAUL_OBJECT_STORE_URL": environment.object_store_url,
        "LONGHAUL_CHECKPOINT_ADDRESS": environment.checkpoint_address,
        "LONGHAUL_SCRATCH_DIR": str(environment.scratch_dir / project / pod),
        "LONGHAUL_LOG_LEVEL": environment.log_level,
        **({"LONGHAUL_TLS_CA_PEM": environment.tls_ca_pem} if environment.tls_ca_pem else {}),
    }


def _metrics(environment: PodEnvironment) -> dict[str, str]:
    """Where the agent serves its metrics, and where it says so."""
    if not environment.metrics_address:
        return {}
    folder = environment.metrics_targets_dir
    return {
        "LONGHAUL_METRICS_ADDRESS": environment.metrics_address,
        **({"LONGHAUL_METRICS_TARGETS_DIR": str(folder)} if folder is not None else {}),
    }


def _scraped(environment: PodEnvironment) -> dict[str, str]:
    """The annotations by which a Prometheus without an operator finds pods with a port of their own."""
    port = environment.metrics_address.rpartition(":")[2]
    return {"prometheus.io/scrape": "true", "prometheus.io/port": port} if port not in ("", "0") else {}


def _labels(kind: str, project: str, owner: str, uid: str, environment: PodEnvironment) -> dict[str, str]:
    return {
        **managed(environment.installation),
        LABEL_KIND: kind,
        LABEL_PROJECT: project,
        LABEL_OWNER: owner,
        LABEL_OWNER_UID: uid,
    }


def _integral(value: Any) -> Any:
    """Whole numbers as integers: a protobuf Struct has made floats of them."""
    if isinstance(value, Mapping):
        return {key: _integral(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_integral(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
