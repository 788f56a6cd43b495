"""A checkpoint as a value, and the transitions that its state may make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from longhaul_core.errors import FailedPrecondition

from longhaul_checkpoint.domain.naming import manifest_key, part_prefix, resource_id
from longhaul_checkpoint.domain.parts import Damage


class State(StrEnum):
    """States of the catalogue. DELETING and ABANDONING are intents: the objects may still be there."""

    BEGUN = "BEGUN"
    COMMITTED = "COMMITTED"
    DAMAGED = "DAMAGED"
    DELETING = "DELETING"
    DELETED = "DELETED"
    ABANDONING = "ABANDONING"
    ABANDONED = "ABANDONED"


VISIBLE_STATES = frozenset({State.COMMITTED, State.DAMAGED})
"""States of a checkpoint whose manifest exists."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What names a checkpoint."""

    project: str
    run: str
    step: int
    epoch: int

    @property
    def id(self) -> str:
        """Id within the project."""
        return resource_id(self.run, self.step, self.epoch)

    @property
    def name(self) -> str:
        """Resource name."""
        return f"projects/{self.project}/checkpoints/{self.id}"

    @property
    def prefix(self) -> str:
        """Prefix of the parts."""
        return part_prefix(self.project, self.run, self.step, self.epoch)

    @property
    def manifest_key(self) -> str:
        """Key of the manifest."""
        return manifest_key(self.project, self.run, self.step, self.epoch)


@dataclass(frozen=True, slots=True)
class Description:
    """What the writer says of a checkpoint beside its parts."""

    tokens: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    parent: str = ""
    lineage: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Commitment:
    """What a commit fixed.

    `previous` is the id of the checkpoint before it on the run's line. `seen` identifies the stored objects as they
    were when they were last verified, so that untouched ones need not be read again. `borrowed` names the parts that
    lie under other checkpoints of the run, with their sizes: retention keeps them as long as one borrows them.
    """

    digest: str
    size_bytes: int
    parts: int
    description: Description
    commit_time: datetime
    verify_time: datetime
    previous: str
    seen: str
    borrowed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a checkpoint is in its state."""

    code: str
    message: str
    action: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint of the catalogue."""

    identity: Identity
    uid: str
    create_time: datetime
    state: State = State.BEGUN
    world_size: int = 1
    commitment: Commitment | None = None
    reason: Reason | None = None
    pinned: bool = False
    leases: Mapping[str, datetime] = field(default_factory=dict)

    @property
    def committed(self) -> Commitment:
        """What the commit fixed.

        Raises:
            FailedPrecondition: the checkpoint was never committed, or it is gone.
        """
        if self.commitment is None or self.state not in VISIBLE_STATES:
            raise FailedPrecondition(
                f"checkpoint {self.identity.id!r} is {self.state}, not committed",
                reason="CHECKPOINT_NOT_COMMITTED",
                metadata={"checkpoint": self.identity.name, "state": self.state},
            )
        return self.commitment

    def is_leased(self, now: datetime) -> bool:
        """Whether a lease has not ended yet."""
        return any(expiry > now for expiry in self.leases.values())

    def commit(self, commitment: Commitment) -> Checkpoint:
        """Return the committed checkpoint.

        Raises:
            FailedPrecondition: it was given up or deleted.
        """
        if self.state is not State.BEGUN:
            raise FailedPrecondition(
                f"checkpoint {self.identity.id!r} is {self.state} and cannot be committed",
                reason="CHECKPOINT_GONE",
                metadata={"checkpoint": self.identity.name, "state": self.state},
                action="begin it again, or go on to the next one",
            )
        return replace(self, state=State.COMMITTED, commitment=commitment, reason=None)

    def verified(self, damages: list[Damage], seen: str, now: datetime) -> Checkpoint:
        """Return the checkpoint after its parts were read again; an intact one is no longer damaged."""
        commitment = replace(self.committed, verify_time=now, seen="" if damages else seen)
        if not damages:
            return replace(self, state=State.COMMITTED, commitment=commitment, reason=None)
        first = damages[0]
        reason = Reason(
            code=first.reason,
            message=f"part {first.part!r}: {first.detail}" + (f" (and {len(damages) - 1} more)" if damages[1:] else ""),
            action="restore the part from a copy and verify again; until then an earlier checkpoint is the latest",
            metadata={"part": first.part, "damaged_parts": str(len(damages))},
        )
        return replace(self, state=State.DAMAGED, commitment=commitment, reason=reason)

    def pin(self, pinned: bool) -> Checkpoint:
        """Return the checkpoint with the pin set or taken away."""
        _ = self.committed
        return replace(self, pinned=pinned)

    def lease(self, holder: str, expiry: datetime, now: datetime) -> Checkpoint:
        """Return the checkpoint with the holder's lease set; ended ones are forgotten."""
        _ = self.committed
        return replace(self, leases={**_running(self.leases, now), holder: expiry})

    def release(self, holder: str, now: datetime) -> Checkpoint:
        """Return the checkpoint without the holder's lease."""
        return replace(self, leases={name: end for name, end in _running(self.leases, now).items() if name != holder})

    def record(self, metrics: Mapping[str, float]) -> Checkpoint:
        """Return the checkpoint with further metrics."""
        commitment = self.committed
        description = replace(commitment.description, metrics={**commitment.description.metrics, **metrics})
        return replace(self, commitment=replace(commitment, description=description))


def _running(leases: Mapping[str, datetime], now: datetime) -> dict[str, datetime]:
    return {holder: expiry for holder, expiry in leases.items() if expiry > now}
