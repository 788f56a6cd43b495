"""Nodes as Kubernetes writes them, read into the model, and patches of the model written for Kubernetes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from longhaul_core.cluster.kubernetes.api import Raw
from longhaul_core.cluster.kubernetes.options import KubernetesOptions
from longhaul_core.cluster.kubernetes.quantities import count, timestamp
from longhaul_core.cluster.model import Condition, ConditionStatus, Node, NodePatch, Taint, TaintEffect
from longhaul_core.ids import fingerprint

EXPORTER_ANNOTATION = "longhaul.dev/exporter-url"
READY = "Ready"

DERIVED_TAINTS = frozenset(
    {
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
        "node.kubernetes.io/unschedulable",
    }
)
"""Taints in which Kubernetes repeats `ready` and `unschedulable`, a little later; they are left to it."""

KUBELET_CONDITIONS = frozenset({"MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"})
"""Conditions that change without a writer of marks; they do not count into a node's version."""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node at one resource version of the API server, with its taints as they are written there.

    `node.resource_version` is a fingerprint of the marks instead: kubelets change the object all the time, and a
    compare-and-set of marks must not lose to a heartbeat.
    """

    node: Node
    version: str
    taints: tuple[Raw, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """Place in a store."""
        return "", self.node.name

    @property
    def uid(self) -> str:
        """Identity of the object."""
        return self.node.uid


def parse_node(raw: Raw, options: KubernetesOptions) -> NodeRecord:
    """Read a node."""
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    taints = spec.get("taints") or ()
    conditions = [_condition(item) for item in status.get("conditions") or ()]
    ready = next((condition for condition in conditions if condition.type == READY), None)
    offered = count((status.get("allocatable") or {}).get(options.gpu_resource))
    present = count((status.get("capacity") or {}).get(options.gpu_resource))
    node = Node(
        name=metadata["name"],
        uid=metadata["uid"],
        ready=ready is not None and ready.status is ConditionStatus.TRUE,
        gpus_total=offered,
        gpus_unhealthy=max(0, present - offered),
        resource_version="",
        unschedulable=bool(spec.get("unschedulable")),
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
        taints=_sorted_taints(taint for taint in taints if taint["key"] not in DERIVED_TAINTS),
        conditions=_sorted_conditions(condition for condition in conditions if condition.type != READY),
        exporter_url=_exporter_url(metadata, status, options),
        silent_since=_silence(ready),
    )
    marked = replace(node, resource_version=_marks_version(node))
    return NodeRecord(marked, metadata["resourceVersion"], tuple(taints))


def spec_patch(record: NodeRecord, patched: Node) -> Raw:
    """The merge patch of metadata and spec from `record` to `patched`; empty when they agree."""
    node = record.node
    metadata: Raw = {}
    spec: Raw = {}
    if patched.labels != node.labels:
        metadata["labels"] = _changes(dict(node.labels), dict(patched.labels))
    if patched.annotations != node.annotations:
        metadata["annotations"] = _changes(dict(node.annotations), dict(patched.annotations))
    if patched.unschedulable != node.unschedulable:
        spec["unschedulable"] = patched.unschedulable or None
    if patched.taints != node.taints:
        spec["taints"] = _raw_taints(record, patched) or None
    patch = {key: value for key, value in (("metadata", metadata), ("spec", spec)) if value}
    if patch:
        patch["metadata"] = {**metadata, "resourceVersion": record.version}
    return patch


def status_patch(record: NodeRecord, patched: Node, patch: NodePatch) -> Raw:
    """The strategic merge patch of the conditions that `patch` changes; empty when none does."""
    if patched.conditions == record.node.conditions:
        return {}
    kept = {condition.type: condition for condition in record.node.conditions}
    changed = [_raw_condition(new) for new in patch.conditions if kept.get(new.type) != new]
    removed = [{"$patch": "delete", "type": type_} for type_ in patch.conditions_remove if type_ in kept]
    return {"metadata": {"resourceVersion": record.version}, "status": {"conditions": [*changed, *removed]}}


def _condition(raw: Raw) -> Condition:
    return Condition(
        type=raw["type"],
        status=ConditionStatus(raw["status"]),
        reason=raw.get("reason") or "",
        message=raw.get("message") or "",
        changed_at=timestamp(raw.get("lastTransitionTime")),
    )


def _raw_condition(condition: Condition) -> Raw:
    return {
        "type": condition.type,
        "status": condition.status.value,
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": condition.changed_at.strftime("%Y-%m-%dT%H:%M:%SZ") if condition.changed_at else None,
    }


def _silence(ready: Condition | None) -> datetime | None:
    """Unknown is what the node controller writes when the kubelet no longer reports."""
    return ready.changed_at if ready is not None and ready.status is ConditionStatus.UNKNOWN else None


def _sorted_taints(raw: Iterable[Raw]) -> tuple[Taint, ...]:
    return tuple(sorted(map(_taint, raw), key=lambda taint: (taint.key, taint.effect)))


def _taint(raw: Raw) -> Taint:
    return Taint(raw["key"], raw.get("value") or "", TaintEffect(raw["effect"]))


def _sorted_conditions(conditions: Iterable[Condition]) -> tuple[Condition, ...]:
    return tuple(sorted(conditions, key=lambda condition: condition.type))


def _raw_taints(record: NodeRecord, patched: Node) -> list[Raw]:
    """The list is replaced whole: what Kubernetes and others wrote stays as it is, times included."""
    written = {_taint(raw): raw for raw in record.taints}
    derived = [raw for raw in record.taints if raw["key"] in DERIVED_TAINTS]
    return [*derived, *(written.get(taint) or _raw_taint(taint) for taint in patched.taints)]


def _raw_taint(taint: Taint) -> Raw:
    raw = {"key": taint.key, "effect": taint.effect.value}
    return {**raw, "value": taint.value} if taint.value else raw


def _changes(before: dict[str, str], after: dict[str, str]) -> dict[str, str | None]:
    changed: dict[str, str | None] = {key: value for key, value in after.items() if before.get(key) != value}
    return changed | dict.fromkeys(before.keys() - after.keys())


def _marks_version(node: Node) -> str:
    conditions = [
        [condition.type, condition.status, condition.reason, condition.message, str(condition.changed_at)]
        for condition in node.conditions
        if condition.type not in KUBELET_CONDITIONS
    ]
    taints = [[taint.key, taint.value, taint.effect] for taint in node.taints]
    return fingerprint([node.unschedulable, dict(node.labels), dict(node.annotations), taints, conditions])


def _exporter_url(metadata: Raw, status: Raw, options: KubernetesOptions) -> str:
    if own := (metadata.get("annotations") or {}).get(EXPORTER_ANNOTATION):
        return str(own)
    addresses = {item["type"]: item["address"] for item in status.get("addresses") or ()}
    address = addresses.get("InternalIP", "")
    return options.exporter_url.replace("{address}", address) if address else ""
