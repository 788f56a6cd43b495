"""Protobuf on one side, the domain and the catalogue's rows on the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from longhaul.checkpoint.v1 import checkpoint_pb2 as pb
from longhaul.common.v1 import resource_pb2
from longhaul_core.db import ResourceRow
from longhaul_core.errors import InvalidArgument
from longhaul_core.ids import ANY_PROJECT, Collection, ResourceName, parse_name, parse_parent
from longhaul_core.rpc.times import timestamp_of

from longhaul_checkpoint.adapters.collector import Round
from longhaul_checkpoint.adapters.inspection import Inspection
from longhaul_checkpoint.adapters.records import checkpoint_of
from longhaul_checkpoint.domain.checkpoint import VISIBLE_STATES, Commitment, Description, Reason, State
from longhaul_checkpoint.domain.diff import Change, PartDifference
from longhaul_checkpoint.domain.retention import Direction, RetentionPolicy

_STATES = {
    State.BEGUN: pb.CHECKPOINT_STATE_BEGUN,
    State.COMMITTED: pb.CHECKPOINT_STATE_COMMITTED,
    State.DAMAGED: pb.CHECKPOINT_STATE_DAMAGED,
    State.DELETING: pb.CHECKPOINT_STATE_DELETED,
    State.DELETED: pb.CHECKPOINT_STATE_DELETED,
    State.ABANDONING: pb.CHECKPOINT_STATE_ABANDONED,
    State.ABANDONED: pb.CHECKPOINT_STATE_ABANDONED,
}


def run_of(name: str, field: str = "training_run") -> ResourceName:
    """Split the name of a run."""
    return parse_name(name, Collection.TRAINING_RUNS, field)


def checkpoint_name_of(name: str, field: str = "name") -> ResourceName:
    """Split the name of a checkpoint."""
    return parse_name(name, Collection.CHECKPOINTS, field)


def filter_of(parent: str, training_run: str) -> tuple[str, str]:
    """Return the project and the run (empty: all) of a List or Watch. Raises InvalidArgument."""
    project = parse_parent(parent, any_project=True)
    if not training_run:
        return project, ""
    run = run_of(training_run)
    if project not in (ANY_PROJECT, run.project):
        raise InvalidArgument(
            f"{training_run!r} is not in project {project!r}",
            reason="PROJECT_DIFFERS",
            violations=[("training_run", f"is in project {run.project!r}")],
        )
    return run.project, run.id


def checkpoint_to_proto(row: ResourceRow) -> pb.Checkpoint:
    """Return a checkpoint as the API shows it."""
    checkpoint = checkpoint_of(row)
    identity = checkpoint.identity
    message = pb.Checkpoint(
        metadata=resource_pb2.Metadata(
            name=f"projects/{row.project}/checkpoints/{row.id}",
            uid=row.uid,
            revision=row.revision,
            fingerprint=row.fingerprint,
            create_time=timestamp_of(row.created_at),
            update_time=timestamp_of(row.updated_at),
        ),
        training_run=str(ResourceName(identity.project, Collection.TRAINING_RUNS, identity.run)),
        step=identity.step,
        epoch=identity.epoch,
        state=_STATES[checkpoint.state],
        prefix=identity.prefix,
        manifest_key=identity.manifest_key,
        pinned=checkpoint.pinned,
        leases=[
            pb.CheckpointLease(holder=holder, expire_time=timestamp_of(end))
            for holder, end in checkpoint.leases.items()
        ],
    )
    if checkpoint.reason is not None:
        message.reason.CopyFrom(_reason(checkpoint.reason))
    if checkpoint.commitment is not None:
        _add_commitment(message, checkpoint.commitment)
    return message


def change_to_proto(row: ResourceRow) -> pb.WatchCheckpointsResponse:
    """Return a change as a Watch shows it."""
    gone = row.state not in {State.BEGUN, *VISIBLE_STATES}
    return pb.WatchCheckpointsResponse(
        type=resource_pb2.CHANGE_TYPE_DELETED if gone else resource_pb2.CHANGE_TYPE_UPDATED,
        checkpoint=checkpoint_to_proto(row),
        revision=row.revision,
    )


def description_of(request: pb.CommitCheckpointRequest) -> Description:
    """Return what a commit says beside its parts."""
    return Description(
        tokens=request.tokens,
        metrics=dict(request.metrics),
        parent=request.parent,
        lineage=json_format.MessageToDict(request.lineage),
    )


def objects_of(parts: Sequence[resource_pb2.ObjectReference]) -> list[tuple[str, int, str]]:
    """Return key, size and digest of each part.

    Raises:
        InvalidArgument: a digest of another algorithm than BLAKE3.
    """
    for index, part in enumerate(parts):
        if part.digest_algorithm not in ("", "blake3"):
            raise InvalidArgument(
                f"part {part.key!r} has a {part.digest_algorithm!r} digest; parts are verified by blake3",
                reason="INVALID_PARTS",
                violations=[(f"parts[{index}].digest_algorithm", "must be blake3")],
            )
    return [(part.key, part.size_bytes, part.digest) for part in parts]


def policy_of(retention: pb.Retention) -> RetentionPolicy:
    """Return the policy of a request. Raises InvalidArgument."""
    return RetentionPolicy(
        keep_last=retention.keep_last,
        keep_every_steps=retention.keep_every_steps,
        milestone_steps=tuple(retention.milestones),
        best_metric=retention.best_metric,
        best_count=retention.keep_best,
        best_direction=Direction.LOWER if retention.minimize else Direction.HIGHER,
    )


def policy_to_proto(policy: RetentionPolicy, run: ResourceName) -> pb.Retention:
    """Return a policy as the API shows it."""
    return pb.Retention(
        training_run=str(run),
        keep_last=policy.keep_last,
        keep_every_steps=policy.keep_every_steps,
        keep_best=policy.best_count,
        best_metric=policy.best_metric,
        minimize=policy.best_direction is Direction.LOWER,
        milestones=policy.milestone_steps,
    )


def round_to_proto(round_: Round, project: str) -> pb.CollectGarbageResponse:
    """Return what retention decided."""
    decisions = [
        pb.GarbageDecision(
            checkpoint=str(ResourceName(project, Collection.CHECKPOINTS, decision.id)),
            deleted=not decision.keep,
            reason=", ".join(decision.reasons) or "expired",
        )
        for decision in round_.decisions
    ]
    return pb.CollectGarbageResponse(decisions=decisions, bytes_freed=round_.bytes_freed)


def inspection_to_proto(inspection: Inspection) -> pb.VerifyCheckpointResponse:
    """Return the result of a verification."""
    return pb.VerifyCheckpointResponse(
        checkpoint=checkpoint_to_proto(inspection.row),
        intact=not inspection.damages,
        damaged_parts={damage.part: f"{damage.reason}: {damage.detail}" for damage in inspection.damages},
        bytes_read=inspection.bytes_read,
    )


def diff_to_proto(differences: Sequence[PartDifference], lineage: dict[str, str]) -> pb.DiffCheckpointsResponse:
    """Return the difference of two checkpoints."""

    def paths(change: Change) -> list[str]:
        return [difference.path for difference in differences if difference.change is change]

    return pb.DiffCheckpointsResponse(
        only_first=paths(Change.REMOVED),
        only_second=paths(Change.ADDED),
        changed=paths(Change.CHANGED),
        equal=paths(Change.UNCHANGED),
        lineage=lineage,
    )


def _add_commitment(message: pb.Checkpoint, commitment: Commitment) -> None:
    description = commitment.description
    message.digest = commitment.digest
    message.size_bytes = commitment.size_bytes
    message.parts = commitment.parts
    message.commit_time.CopyFrom(timestamp_of(commitment.commit_time))
    message.verify_time.CopyFrom(timestamp_of(commitment.verify_time))
    message.tokens = description.tokens
    message.metrics.update(description.metrics)
    message.parent = description.parent
    message.lineage.CopyFrom(_struct(dict(description.lineage)))


def _reason(reason: Reason) -> resource_pb2.StateReason:
    return resource_pb2.StateReason(
        code=reason.code, message=reason.message, action=reason.action, metadata=dict(reason.metadata)
    )


def _struct(values: dict[str, Any]) -> Struct:
    return json_format.ParseDict(values, Struct())
