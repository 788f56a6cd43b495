"""The manifest of a checkpoint: built for a commit, read back, and turned into what the catalogue keeps of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from longhaul_core.errors import DataLoss, NotFound
from longhaul_core.ids import fingerprint
from longhaul_core.manifests import Manifest, read_manifest
from longhaul_core.manifests import Part as ManifestPart
from longhaul_core.objects.store import ObjectStore

from longhaul_checkpoint.domain.checkpoint import Checkpoint, Commitment, Description, Identity
from longhaul_checkpoint.domain.naming import part_prefix, path_of
from longhaul_checkpoint.domain.parts import Part

KIND = "checkpoint"


def build(checkpoint: Checkpoint, parts: Sequence[Part], description: Description, previous: str) -> Manifest:
    """Return the manifest that commits a checkpoint; a retry builds the same one."""
    identity = checkpoint.identity
    return Manifest(
        kind=KIND,
        name=identity.name,
        uid=checkpoint.uid,
        created=checkpoint.create_time,
        config={
            "run": identity.run,
            "step": identity.step,
            "epoch": identity.epoch,
            "world_size": checkpoint.world_size,
        },
        parts=tuple(ManifestPart(key=part.key, size=part.size, digest=part.digest) for part in parts),
        counts={"step": identity.step, "tokens": description.tokens},
        extra={
            "metrics": dict(description.metrics),
            "parent": description.parent,
            "lineage": dict(description.lineage),
            "previous": previous,
        },
    )


def read(store: ObjectStore, identity: Identity) -> Manifest:
    """Read a checkpoint's manifest.

    Raises:
        NotFound: it was not committed.
        DataLoss: it is damaged, or it is another checkpoint's.
    """
    manifest = read_manifest(store, identity.manifest_key)
    if manifest.kind != KIND or manifest.name != identity.name:
        raise DataLoss(
            f"manifest {identity.manifest_key!r} describes {manifest.name!r}",
            reason="MANIFEST_SWAPPED",
            metadata={"key": identity.manifest_key},
        )
    return manifest


def find(store: ObjectStore, identity: Identity) -> Manifest | None:
    """Read a checkpoint's manifest, or return None where there is none. Raises DataLoss."""
    try:
        return read(store, identity)
    except NotFound:
        return None


def parts_of(manifest: Manifest, identity: Identity) -> list[Part]:
    """Return the parts, each with its path within the checkpoint."""
    return [part_of(part.key, part.size, part.digest, identity) for part in manifest.parts]


def part_of(key: str, size: int, digest: str, identity: Identity) -> Part:
    """Return a part by its key."""
    return Part(path_of(key, identity.project, identity.run), key, size, digest)


def commitment_of(
    manifest: Manifest, *, previous: str, commit_time: datetime, verify_time: datetime, seen: str
) -> Commitment:
    """Return what the catalogue keeps of a committed manifest."""
    extra, config = cast(dict[str, Any], manifest.extra), cast(dict[str, Any], manifest.config)
    project = manifest.name.split("/")[1]
    own = part_prefix(project, config["run"], config["step"], config["epoch"])
    return Commitment(
        digest=manifest.digest,
        size_bytes=manifest.size,
        parts=len(manifest.parts),
        description=Description(manifest.counts["tokens"], extra["metrics"], extra["parent"], extra["lineage"]),
        commit_time=commit_time,
        verify_time=verify_time,
        previous=previous,
        seen=seen,
        borrowed={part.key: part.size for part in manifest.parts if not part.key.startswith(own)},
    )


def sighting(store: ObjectStore, parts: Sequence[Part]) -> str:
    """Identify the stored objects without reading them; empty where one is missing.

    An object that is replaced or edited has another identity.
    """
    try:
        infos = [store.stat(part.key) for part in parts]
    except NotFound:
        return ""
    return fingerprint([[info.key, info.size, info.etag] for info in infos])
