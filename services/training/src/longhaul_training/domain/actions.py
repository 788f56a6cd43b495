"""What the controller does to the world. Every action is idempotent: it may be done again after a crash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from longhaul_training.domain.states import Control


@dataclass(frozen=True, slots=True)
class CreatePod:
    """Creates the pod of a slot's incarnation on a node."""

    pod: str
    slot: int
    incarnation: int
    node: str


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Deletes one pod, by uid: a later one of the same name is left alone."""

    pod: str
    uid: str
    grace_seconds: float


@dataclass(frozen=True, slots=True)
class RegisterEpoch:
    """Fences older epochs off the checkpoint store and finds the checkpoint to begin with."""

    epoch: int
    rollback: bool = False


@dataclass(frozen=True, slots=True)
class PrepareEpoch:
    """Asks an agent to kill older workers and, on rank 0's pod, to bind the rendezvous port."""

    pod: str
    epoch: int
    bind_rendezvous: bool


@dataclass(frozen=True, slots=True)
class StartEpoch:
    """Asks an agent to start its workers."""

    pod: str
    epoch: int
    ranks: tuple[int, ...]
    rendezvous_address: str
    world_size: int
    program: str = "train"


@dataclass(frozen=True, slots=True)
class StopAfterCheckpoint:
    """Asks an agent's workers to write a checkpoint at the next step and stop."""

    pod: str
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class AcknowledgeDrain:
    """Tells gpuhealth that a node carries no work any more."""

    node: str
    session: str
    message: str


@dataclass(frozen=True, slots=True)
class AccuseNode:
    """Tells gpuhealth that a run's own checks found a node faulty; forgotten from the record once it knows."""

    node: str
    message: str
    key: str


Action = (
    CreatePod
    | DeletePod
    | RegisterEpoch
    | PrepareEpoch
    | StartEpoch
    | StopAfterCheckpoint
    | AcknowledgeDrain
    | AccuseNode
)


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Something that happened to a run; kept for ever."""

    type: str
    cause: str
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """The record must move first: write it with its events in one transaction, then decide again."""

    control: Control
    events: tuple[RunEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class Act:
    """The record stands: do these, in order."""

    actions: tuple[Action, ...] = ()


Decision = Change | Act
