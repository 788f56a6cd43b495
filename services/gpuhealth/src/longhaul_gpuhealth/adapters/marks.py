"""Marks on nodes of the cluster: put on by compare-and-set, taken off only as far as they are ours."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from longhaul_core.clock import Clock
from longhaul_core.cluster import Cluster, Condition, ConditionStatus, Node, NodePatch, Taint
from longhaul_core.errors import Aborted

from longhaul_gpuhealth.domain.record import NodeFacts, Quarantine

TAINT = Taint("longhaul.dev/gpu-error", "fatal")
CONDITION = "GpuHealthy"
OPT_OUT_LABEL = "longhaul.dev/gpuhealth"
OPT_OUT_VALUE = "ignore"
PREFIX = "longhaul.dev/gpuhealth-"
SESSION, REASON, BY, TIME, UNDO = (PREFIX + name for name in ("session", "reason", "by", "time", "undo"))
CORDON, TAINTED = "cordon", "taint"
MAXIMUM_REASON_CHARACTERS = 500
_ATTEMPTS = 8


def facts_of(node: Node, *, idle: bool, pool_label: str, exporter_url: str) -> NodeFacts:
    """What a decision needs to know of a node."""
    return NodeFacts(
        schedulable=not node.unschedulable and not node.has_taint(TAINT.key, TAINT.effect),
        opted_out=node.labels.get(OPT_OUT_LABEL) == OPT_OUT_VALUE,
        session=node.annotations.get(SESSION, ""),
        exporter_url=exporter_url,
        idle=idle,
        pool=node.labels.get(pool_label, "") if pool_label else "",
    )


def foreign_marks(node: Node) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Conditions and taints that others put on a node, as `TYPE=STATUS` and `KEY=VALUE:EFFECT`."""
    conditions = tuple(f"{one.type}={one.status}" for one in node.conditions if one.type != CONDITION)
    taints = tuple(f"{one.key}={one.value}:{one.effect}" for one in node.taints if one.key != TAINT.key)
    return conditions, taints


@dataclass(frozen=True, slots=True)
class Marker:
    """Puts quarantines on nodes and takes them off. Both are idempotent.

    Calls raise what the cluster raises: `PermissionDenied`, `Unavailable`, `NotFound`.
    """

    cluster: Cluster
    clock: Clock

    async def mark(self, name: str, quarantine: Quarantine) -> Node:
        """Cordon, taint, condition and annotations; `undo` notes which of them were not there before."""
        for _ in range(_ATTEMPTS):
            node = await self.cluster.get_node(name)
            if node.annotations.get(SESSION) == quarantine.session:
                return node
            try:
                return await self.cluster.patch_node(
                    name, self._marks(node, quarantine), expected_version=node.resource_version
                )
            except Aborted:
                continue
        raise _contended(name)

    async def unmark(self, name: str, session: str) -> Node:
        """Take off what that session put on; marks of anyone else stay."""
        for _ in range(_ATTEMPTS):
            node = await self.cluster.get_node(name)
            if node.annotations.get(SESSION) != session:
                return node
            undo = _undo(node)
            patch = NodePatch(
                unschedulable=False if CORDON in undo else None,
                taints_remove=(TAINT,) if TAINTED in undo else (),
                annotations=dict.fromkeys((SESSION, REASON, BY, TIME, UNDO)),
                conditions=(self._condition(ConditionStatus.TRUE, "Released", ""),),
            )
            try:
                return await self.cluster.patch_node(name, patch, expected_version=node.resource_version)
            except Aborted:
                continue
        raise _contended(name)

    def _marks(self, node: Node, quarantine: Quarantine) -> NodePatch:
        undo = set() if SESSION not in node.annotations else set(_undo(node))
        if not node.unschedulable:
            undo.add(CORDON)
        if not node.has_taint(TAINT.key, TAINT.effect):
            undo.add(TAINTED)
        cause = quarantine.cause[:MAXIMUM_REASON_CHARACTERS]
        return NodePatch(
            unschedulable=True,
            taints_add=() if node.has_taint(TAINT.key, TAINT.effect) else (TAINT,),
            annotations={
                SESSION: quarantine.session,
                REASON: cause,
                BY: quarantine.by,
                TIME: datetime.fromtimestamp(quarantine.since, UTC).isoformat(timespec="milliseconds"),
                UNDO: ",".join(sorted(undo)),
            },
            conditions=(self._condition(ConditionStatus.FALSE, "Quarantined", cause),),
        )

    def _condition(self, status: ConditionStatus, reason: str, message: str) -> Condition:
        return Condition(CONDITION, status, reason, message, self.clock.now())


def _undo(node: Node) -> frozenset[str]:
    return frozenset(filter(None, node.annotations.get(UNDO, "").split(",")))


def _contended(name: str) -> Aborted:
    return Aborted(
        f"node {name} changed under every one of {_ATTEMPTS} attempts to mark it",
        reason="NODE_CHANGED",
        metadata={"node": name},
    )
