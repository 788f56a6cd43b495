"""What every implementation decides alike: validation, fit of a pod on a node, effect of a patch. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from longhaul_core.cluster.model import Condition, Node, NodePatch, Pod, PodSpec, Taint, TaintEffect
from longhaul_core.errors import InvalidArgument

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


def check_spec(spec: PodSpec) -> None:
    """Raise `InvalidArgument` naming every field of a malformed spec."""
    violations: list[tuple[str, str]] = []
    for field, value in (("name", spec.name), ("namespace", spec.namespace)):
        if not _NAME.fullmatch(value):
            violations.append((field, f"{value!r} is no lower-case name of letters, digits, '-' and '.'"))
    if not spec.command:
        violations.append(("command", "is empty"))
    if spec.gpus < 0:
        violations.append(("gpus", f"{spec.gpus} is negative"))
    if violations:
        raise InvalidArgument(
            "the pod cannot be created: " + "; ".join(f"{f} {d}" for f, d in violations), violations=violations
        )


def matches(labels: Mapping[str, str], wanted: Mapping[str, str] | None) -> bool:
    """Whether `labels` carry all of `wanted`."""
    return all(labels.get(key) == value for key, value in (wanted or {}).items())


def gpus_used(pods: Iterable[Pod], node: str) -> int:
    """GPUs of `node` that its pods hold."""
    return sum(pod.gpus for pod in pods if pod.node == node and pod.holds_gpus)


def fits(node: Node, used: int, spec: PodSpec) -> bool:
    """Whether an unbound pod may be scheduled on `node`, of whose GPUs `used` are taken."""
    if not node.ready or node.unschedulable or not matches(node.labels, spec.node_selector):
        return False
    hard = (taint for taint in node.taints if taint.effect is not TaintEffect.PREFER_NO_SCHEDULE)
    tolerated = all(any(toleration.covers(taint) for toleration in spec.tolerations) for taint in hard)
    return tolerated and spec.gpus <= node.gpus_total - used


def apply_patch(node: Node, patch: NodePatch) -> Node:
    """The node with `patch` applied; its version is the caller's to raise."""
    return replace(
        node,
        unschedulable=node.unschedulable if patch.unschedulable is None else patch.unschedulable,
        labels=_merge(node.labels, patch.labels),
        annotations=_merge(node.annotations, patch.annotations),
        taints=_merge_taints(node.taints, patch),
        conditions=_merge_conditions(node.conditions, patch),
    )


def _merge(current: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    merged = {**current, **changes}
    return {key: value for key, value in merged.items() if value is not None}


def _merge_taints(current: tuple[Taint, ...], patch: NodePatch) -> tuple[Taint, ...]:
    gone = {(taint.key, taint.effect) for taint in (*patch.taints_remove, *patch.taints_add)}
    kept = (taint for taint in current if (taint.key, taint.effect) not in gone)
    return tuple(sorted((*kept, *patch.taints_add), key=lambda taint: (taint.key, taint.effect)))


def _merge_conditions(current: tuple[Condition, ...], patch: NodePatch) -> tuple[Condition, ...]:
    gone = {*patch.conditions_remove, *(condition.type for condition in patch.conditions)}
    kept = (condition for condition in current if condition.type not in gone)
    return tuple(sorted((*kept, *patch.conditions), key=lambda condition: condition.type))
