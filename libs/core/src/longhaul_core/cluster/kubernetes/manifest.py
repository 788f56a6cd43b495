"""A pod spec of the model, written as a Kubernetes pod.

Three layers, later ones win: the operator's template, what longhaul needs, the overlay of the single pod. The result
passes Pod Security "restricted" unless template or overlay leave it, and carries no API token.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

from longhaul_core.cluster.kubernetes.api import Raw
from longhaul_core.cluster.kubernetes.gangs import gang_marks
from longhaul_core.cluster.kubernetes.options import Binding, KubernetesOptions
from longhaul_core.cluster.kubernetes.overlay import CONTAINER_LISTS, check_overlay, lay_over
from longhaul_core.cluster.kubernetes.quantities import count
from longhaul_core.cluster.model import PodSpec, Toleration
from longhaul_core.errors import InvalidArgument

CONTAINER = "main"
SHARED_MEMORY = "shared-memory"
SCRATCH = "scratch"
_FIELD_NAME = "metadata.name"
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}

_OUTLIVE_SILENCE = tuple(
    {"key": f"node.kubernetes.io/{state}", "operator": "Exists", "effect": "NoExecute"}
    for state in ("not-ready", "unreachable")
)
"""Kubernetes would delete pods of a node that is out of its sight after 5 minutes; the owner decides that here."""


def build_manifest(
    spec: PodSpec, namespace: str, options: KubernetesOptions, template: Raw, owner: Raw | None = None
) -> Raw:
    """The pod to create, owned by the object that `owner` refers to.

    Raises `InvalidArgument` for an overlay that it must not have.
    """
    check_overlay(spec.overlay, options.pod_security)
    own: Raw = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": spec.name, "namespace": namespace},
        "spec": _pod_spec(spec, options),
    }
    _add_scratch(own["spec"], spec, template)
    marks = gang_marks(spec, options)
    manifest = deepcopy(lay_over(lay_over(lay_over(template, own), marks), spec.overlay))
    for field, values in (("labels", spec.labels), ("annotations", spec.annotations)):
        manifest["metadata"][field] = {**manifest["metadata"].get(field, {}), **values}
    if owner is not None:
        manifest["metadata"]["ownerReferences"] = [owner]
    pod = manifest["spec"]
    for container in _containers(pod):
        container.setdefault("securityContext", dict(_RESTRICTED))
    pod["tolerations"] = _distinct(pod["tolerations"])
    if spec.node is not None:
        _bind(pod, spec.node, options.binding)
    if (asked := gpus_of(pod, options.gpu_resource)) != spec.gpus:
        raise InvalidArgument(
            f"pod {spec.name} has {spec.gpus} GPUs, its overlay makes them {asked}",
            reason="OVERLAY_REFUSED",
            violations=[("overlay", f"asks for {options.gpu_resource} beside the pod's GPUs")],
        )
    return manifest


def gpus_of(pod: Raw, resource: str) -> int:
    """GPUs that the containers of a pod hold together."""
    limits = ((container.get("resources") or {}).get("limits") or {} for container in _containers(pod))
    return sum(count(limit.get(resource)) for limit in limits)


def bound_node(pod: Raw) -> str | None:
    """The node of a pod: where it is, or the only one where it may go."""
    if name := pod.get("nodeName"):
        return str(name)
    affinity = (pod.get("affinity") or {}).get("nodeAffinity") or {}
    terms = (affinity.get(_REQUIRED) or {}).get("nodeSelectorTerms") or ()
    names = {_named_node(term) for term in terms}
    return names.pop() if len(names) == 1 else None


def _named_node(term: Raw) -> str | None:
    for field in term.get("matchFields") or ():
        if field["key"] == _FIELD_NAME and field["operator"] == "In" and len(field["values"]) == 1:
            return str(field["values"][0])
    return None


def _containers(pod: Raw) -> list[Raw]:
    return [container for kind in CONTAINER_LISTS for container in pod.get(kind) or ()]


def _pod_spec(spec: PodSpec, options: KubernetesOptions) -> Raw:
    pod: Raw = {
        "restartPolicy": "Never",
        "containers": [_container(spec, options)],
        "volumes": [{"name": SHARED_MEMORY, "emptyDir": _shared_memory(spec)}],
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": math.ceil(spec.grace_seconds),
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "tolerations": [*_OUTLIVE_SILENCE, *map(_toleration, spec.tolerations)],
    }
    optional: Raw = {
        "nodeSelector": dict(spec.node_selector),
        "serviceAccountName": spec.service_account,
        "priorityClassName": spec.priority_class,
        "imagePullSecrets": [{"name": name} for name in spec.pull_secrets],
    }
    pod |= {key: value for key, value in optional.items() if value}
    if spec.colocation is not None:
        labels = dict(spec.colocation.labels)
        term = {"topologyKey": spec.colocation.topology_key, "labelSelector": {"matchLabels": labels}}
        pod["affinity"] = {"podAffinity": {_REQUIRED: [term]}}
    return pod


def _bind(pod: Raw, node: str, binding: Binding) -> None:
    if binding is Binding.NODE:
        pod["nodeName"] = node
        return
    required = pod.setdefault("affinity", {}).setdefault("nodeAffinity", {}).setdefault(_REQUIRED, {})
    field = {"key": _FIELD_NAME, "operator": "In", "values": [node]}
    terms = required.get("nodeSelectorTerms") or [{}]
    required["nodeSelectorTerms"] = [{**term, "matchFields": [*term.get("matchFields", ()), field]} for term in terms]
    pod["tolerations"].append({"operator": "Exists", "effect": "NoSchedule"})  # cordon and marks are the caller's


def _container(spec: PodSpec, options: KubernetesOptions) -> Raw:
    quantities = dict(spec.resources)
    if spec.gpus:
        quantities[options.gpu_resource] = str(spec.gpus)
    from_fields = [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in sorted(spec.field_env.items())
    ]
    container: Raw = {
        "name": CONTAINER,
        "command": list(spec.command),
        "env": [*({"name": name, "value": value} for name, value in sorted(spec.env.items())), *from_fields],
        "resources": {"requests": quantities, "limits": dict(quantities)},
        "volumeMounts": [{"name": SHARED_MEMORY, "mountPath": "/dev/shm"}],  # noqa: S108 (inside the container)
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    optional: Raw = {
        "image": spec.image,
        "workingDir": spec.working_dir,
        "envFrom": [{"secretRef": {"name": name}} for name in spec.secret_env],
    }
    return container | {key: value for key, value in optional.items() if value}


def _shared_memory(spec: PodSpec) -> Raw:
    bounded = {} if spec.shared_memory_bytes is None else {"sizeLimit": str(spec.shared_memory_bytes)}
    return {"medium": "Memory", **bounded}


def _add_scratch(pod: Raw, spec: PodSpec, template: Raw) -> None:
    """Room at `scratch_dir`: the volume that the template calls so, else one of the pod's own."""
    if not spec.scratch_dir:
        return
    below = template.get("spec") or {}
    mounted = {
        mount.get("mountPath") for container in _containers(below) for mount in container.get("volumeMounts") or ()
    }
    if spec.scratch_dir in mounted:
        return
    if SCRATCH not in {volume.get("name") for volume in below.get("volumes") or ()}:
        pod["volumes"].append({"name": SCRATCH, "emptyDir": {}})
    pod["containers"][0]["volumeMounts"].append({"name": SCRATCH, "mountPath": spec.scratch_dir})


def _toleration(toleration: Toleration) -> Raw:
    raw: Raw = {"operator": "Equal" if toleration.value else "Exists"}
    named = {"key": toleration.key, "value": toleration.value}
    return raw | {key: value for key, value in named.items() if value}


def _distinct(items: list[Any]) -> list[Any]:
    return [item for index, item in enumerate(items) if item not in items[:index]]
