"""What the controller says to an agent, before it becomes a message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from longhaul_training.domain.actions import PrepareEpoch, StopAfterCheckpoint


@dataclass(frozen=True, slots=True)
class Welcome:
    """The stream is accepted; everything up to this sequence is committed."""

    acknowledged_sequence: int


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Everything up to this sequence is committed."""

    sequence: int


@dataclass(frozen=True, slots=True)
class StartWorkers:
    """Start the workers of an epoch, with all they need to know."""

    epoch: int
    world_size: int
    ranks: tuple[int, ...]
    rendezvous_address: str
    token_set_manifest_key: str
    resume_manifest_key: str = ""
    resume_checkpoint: str = ""
    program: str = "train"
    trainer_config: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The pod is not needed any more."""

    reason: str


@dataclass(frozen=True, slots=True)
class Redirect:
    """Another replica reconciles."""

    leader_address: str


Command = Welcome | Acknowledge | PrepareEpoch | StartWorkers | StopAfterCheckpoint | Shutdown | Redirect
"""What may go down a stream."""
