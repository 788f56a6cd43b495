"""Partial pods laid over one another, and what the overlay of a single pod may not say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from longhaul_core.cluster.kubernetes.api import Raw
from longhaul_core.cluster.kubernetes.options import PodSecurity
from longhaul_core.errors import InvalidArgument, Violation

_MERGE_KEYS = ("name", "mountPath", "containerPort")
"""Fields that identify the items of a list, as in Kubernetes' strategic merge; lists without one are joined."""

_REPLACED = ("command", "args")
_IDENTITY = (
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.serviceAccount",
    "spec.automountServiceAccountToken",
    "spec.priorityClassName",
    "spec.priority",
    "spec.ephemeralContainers",
)
_HOST = ("spec.hostNetwork", "spec.hostPID", "spec.hostIPC", "spec.hostUsers", "spec.securityContext")
_VOLUMES = frozenset({"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "secret"})
"""Kinds of volumes that Pod Security "restricted" allows, without `projected`, which can carry an API token."""

CONTAINER_LISTS = ("containers", "initContainers")


def lay_over(base: Mapping[str, Any], top: Mapping[str, Any]) -> Raw:
    """`base` with `top` over it: objects merge, lists merge by name or are joined, anything else is replaced.

    The result shares parts with both.
    """
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = lay_over(below, value)
        elif isinstance(below, list) and isinstance(value, list | tuple) and key not in _REPLACED:
            merged[key] = _merge_lists(below, list(value))
        else:
            merged[key] = value
    return merged


def check_overlay(overlay: Mapping[str, Any], security: PodSecurity) -> None:
    """Raise `InvalidArgument` naming every field that the overlay of a single pod must not set."""
    violations: list[Violation] = []
    if unknown := set(overlay) - {"metadata", "spec"}:
        violations.append(("overlay", f"has {', '.join(sorted(unknown))} beside metadata and spec"))
    forbidden = _IDENTITY if security is PodSecurity.PRIVILEGED else (*_IDENTITY, *_HOST)
    violations += [(f"overlay.{path}", "is set by longhaul") for path in forbidden if _has(overlay, path)]
    if security is not PodSecurity.PRIVILEGED:
        violations += _privileges(overlay.get("spec") or {})
    if violations:
        raise InvalidArgument(
            "the pod's overlay cannot be used: " + "; ".join(f"{field} {problem}" for field, problem in violations),
            reason="OVERLAY_REFUSED",
            violations=violations,
            action="move it to the operator's pod template, or allow it with pod_security=privileged",
        )


def load_template(path: str) -> Raw:
    """The partial pod in a YAML file; empty for an empty path. Raises `InvalidArgument`."""
    if not path:
        return {}
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(loaded, dict):
        raise _unreadable(path, "it is no mapping")
    return {key: value for key, value in loaded.items() if key in ("metadata", "spec")}


def _unreadable(path: str, problem: str) -> InvalidArgument:
    return InvalidArgument(
        f"the pod template {path} cannot be used: {problem}",
        reason="TEMPLATE_INVALID",
        violations=[("cluster_url.template", problem)],
    )


def _merge_lists(below: list[Any], above: list[Any]) -> list[Any]:
    merged = list(below)
    for item in above:
        place = next((index for index, other in enumerate(merged) if _same(other, item)), None)
        if place is None:
            merged.append(item)
        else:
            merged[place] = lay_over(merged[place], item)
    return merged


def _same(one: Any, other: Any) -> bool:
    """Whether two items of a list are about the same thing, by the most specific key that both have."""
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        return False
    for key in reversed(_MERGE_KEYS):
        if key in one and key in other:
            return bool(one[key] == other[key])
    return False


def _privileges(spec: Mapping[str, Any]) -> list[Violation]:
    found: list[Violation] = []
    for kind in CONTAINER_LISTS:
        for index, container in enumerate(spec.get(kind) or ()):
            if "securityContext" in container:
                found.append((f"overlay.spec.{kind}[{index}].securityContext", "is set by longhaul"))
    for index, volume in enumerate(spec.get("volumes") or ()):
        if refused := set(volume) - _VOLUMES - {"name"}:
            kinds = ", ".join(sorted(refused))
            found.append((f"overlay.spec.volumes[{index}]", f"{kinds} is no kind of volume that is allowed"))
    return found


def _has(overlay: Mapping[str, Any], path: str) -> bool:
    value: Any = overlay
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return False
        value = value[key]
    return True
