"""The checkpoint service as the trainer sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.struct_pb2 import Struct
from longhaul.checkpoint.v1 import checkpoint_pb2, checkpoint_pb2_grpc
from longhaul.common.v1 import resource_pb2
from longhaul_core.manifests import Part
from longhaul_core.rpc.client import connect_sync, rpc_errors


@dataclass(frozen=True, slots=True)
class Reservation:
    """A checkpoint that was begun: its name, and the prefix that its parts go below."""

    name: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Commit:
    """What rank 0 hands over once every part is in the store."""

    name: str
    epoch: int
    parts: Sequence[Part]
    tokens: int
    metrics: Mapping[str, float]
    parent: str
    lineage: Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class Found:
    """A committed checkpoint."""

    name: str
    manifest_key: str


class Catalogue(Protocol):
    """Reserves and commits checkpoints."""

    def begin(self, step: int, epoch: int, world_size: int) -> Reservation:
        """Reserves a checkpoint. Raises FailedPrecondition (STALE_EPOCH) when a newer epoch runs."""
        ...

    def commit(self, commit: Commit) -> None:
        """Makes it visible. Raises DataLoss when a part is not as described."""
        ...

    def latest(self, maximum_step: int) -> Found:
        """The newest intact checkpoint of at most this step. Raises NotFound."""
        ...

    def report_damage(self, name: str) -> None:
        """Asks for a verification, so that a damaged checkpoint is passed over from now on."""
        ...


class CheckpointService:
    """Catalogue over gRPC; every call has a deadline and raises LonghaulError."""

    def __init__(self, address: str, run: str, token: str, tls_ca: bytes | None = None) -> None:
        self._channel = connect_sync(address, token=token or None, tls_ca=tls_ca)
        self._stub = checkpoint_pb2_grpc.CheckpointServiceStub(self._channel)
        self._run = run

    def begin(self, step: int, epoch: int, world_size: int) -> Reservation:
        """Reserves a checkpoint; idempotent."""
        request = checkpoint_pb2.BeginCheckpointRequest(
            training_run=self._run, step=step, epoch=epoch, world_size=world_size
        )
        with rpc_errors():
            answer = self._stub.BeginCheckpoint(request)
        return Reservation(answer.metadata.name, answer.prefix)

    def commit(self, commit: Commit) -> None:
        """Commits; idempotent."""
        lineage = Struct()
        lineage.update(dict(commit.lineage))
        request = checkpoint_pb2.CommitCheckpointRequest(
            name=commit.name,
            epoch=commit.epoch,
            parts=[_reference(part) for part in commit.parts],
            tokens=commit.tokens,
            metrics=dict(commit.metrics),
            parent=commit.parent,
            lineage=lineage,
        )
        with rpc_errors():
            self._stub.CommitCheckpoint(request)

    def latest(self, maximum_step: int) -> Found:
        """Asks for the newest one on the run's line."""
        request = checkpoint_pb2.GetLatestCheckpointRequest(training_run=self._run, maximum_step=maximum_step)
        with rpc_errors():
            answer = self._stub.GetLatestCheckpoint(request)
        return Found(answer.metadata.name, answer.manifest_key)

    def report_damage(self, name: str) -> None:
        """Has the service read every part again."""
        with rpc_errors():
            self._stub.VerifyCheckpoint(checkpoint_pb2.VerifyCheckpointRequest(name=name))

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()


def _reference(part: Part) -> resource_pb2.ObjectReference:
    return resource_pb2.ObjectReference(
        key=part.key, size_bytes=part.size, digest=part.digest, digest_algorithm=part.digest_algorithm
    )
