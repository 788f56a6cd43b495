"""Checkpoints and runs as rows of the resource table, and back."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from longhaul_core.db.resources import ResourceRow

from longhaul_checkpoint.domain.checkpoint import Checkpoint, Commitment, Description, Identity, Reason, State
from longhaul_checkpoint.domain.lineage import RunHead
from longhaul_checkpoint.domain.retention import Direction, RetentionPolicy

CHECKPOINT_KIND = "checkpoint"
RUN_KIND = "checkpoint-run"


def checkpoint_of(row: ResourceRow) -> Checkpoint:
    """Read a row."""
    spec, status = row.spec, row.status
    return Checkpoint(
        identity=Identity(row.project, spec["run"], spec["step"], spec["epoch"]),
        uid=row.uid,
        create_time=row.created_at,
        state=State(row.state),
        world_size=spec["world_size"],
        commitment=_commitment_of(status["commitment"]) if "commitment" in status else None,
        reason=Reason(**status["reason"]) if "reason" in status else None,
        pinned=status.get("pinned", False),
        leases={holder: datetime.fromisoformat(end) for holder, end in status.get("leases", {}).items()},
    )


def status_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the status column of a checkpoint; what is empty is left out, since there may be many rows."""
    status: dict[str, Any] = {}
    if checkpoint.commitment is not None:
        status["commitment"] = _commitment_to(checkpoint.commitment)
    if checkpoint.reason is not None:
        reason = checkpoint.reason
        status["reason"] = {
            "code": reason.code,
            "message": reason.message,
            "action": reason.action,
            "metadata": dict(reason.metadata),
        }
    if checkpoint.pinned:
        status["pinned"] = True
    if checkpoint.leases:
        status["leases"] = {holder: end.isoformat() for holder, end in checkpoint.leases.items()}
    return status


def head_of(row: ResourceRow) -> RunHead:
    """Read the head of a run."""
    return RunHead(row.id, row.status["epoch"], row.status["checkpoint"])


def policy_of(row: ResourceRow) -> RetentionPolicy:
    """Read the retention policy of a run."""
    stored = row.status.get("retention")
    if stored is None:
        return RetentionPolicy()
    return RetentionPolicy(
        keep_last=stored["keep_last"],
        keep_every_steps=stored["keep_every_steps"],
        milestone_steps=tuple(stored["milestone_steps"]),
        best_metric=stored["best_metric"],
        best_count=stored["best_count"],
        best_direction=Direction(stored["best_direction"]),
    )


def run_status_of(head: RunHead, policy: RetentionPolicy) -> dict[str, Any]:
    """Return the status column of a run."""
    return {
        "epoch": head.epoch,
        "checkpoint": head.checkpoint,
        "retention": {
            "keep_last": policy.keep_last,
            "keep_every_steps": policy.keep_every_steps,
            "milestone_steps": list(policy.milestone_steps),
            "best_metric": policy.best_metric,
            "best_count": policy.best_count,
            "best_direction": policy.best_direction.value,
        },
    }


def _commitment_of(stored: dict[str, Any]) -> Commitment:
    return Commitment(
        digest=stored["digest"],
        size_bytes=stored["size_bytes"],
        parts=stored["parts"],
        description=Description(stored["tokens"], stored["metrics"], stored["parent"], stored["lineage"]),
        commit_time=datetime.fromisoformat(stored["commit_time"]),
        verify_time=datetime.fromisoformat(stored["verify_time"]),
        previous=stored["previous"],
        seen=stored["seen"],
        borrowed=stored.get("borrowed", {}),
    )


def _commitment_to(commitment: Commitment) -> dict[str, Any]:
    description = commitment.description
    shared = {"borrowed": dict(commitment.borrowed)} if commitment.borrowed else {}
    return {
        **shared,
        "digest": commitment.digest,
        "size_bytes": commitment.size_bytes,
        "parts": commitment.parts,
        "tokens": description.tokens,
        "metrics": dict(description.metrics),
        "parent": description.parent,
        "lineage": dict(description.lineage),
        "commit_time": commitment.commit_time.isoformat(),
        "verify_time": commitment.verify_time.isoformat(),
        "previous": commitment.previous,
        "seen": commitment.seen,
    }
