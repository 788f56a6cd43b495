"""The manifest of a resource: what it is made of, by digest. Writing it is the commit of the resource."""

import json
from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from longhaul_core.digests import hash_bytes, hash_file, hash_object, hash_stream
from longhaul_core.errors import AlreadyExists, DataLoss, FailedPrecondition, NotFound
from longhaul_core.objects.store import ObjectStore

__all__ = [
    "CommitAuthority",
    "InputRef",
    "Manifest",
    "Part",
    "hash_bytes",
    "hash_file",
    "hash_object",
    "hash_stream",
    "put_file_part",
    "put_part",
    "read_manifest",
    "verify_part",
    "write_manifest",
]

SCHEMA = "longhaul.manifest/v1"


class CommitAuthority(Enum):
    """Who decides which of two writers commits."""

    OBJECT_STORE = "object-store"  # the conditional create of the manifest
    DATABASE = "database"  # the caller holds the resource's row; for stores without conditional writes

    @staticmethod
    def of(store: ObjectStore) -> "CommitAuthority":
        """The store where it can; else whoever holds the row, in a service that lets one at a time commit it."""
        return CommitAuthority.OBJECT_STORE if store.conditional_writes else CommitAuthority.DATABASE


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputRef(_Frozen):
    """A resource this one was made from, and the digest of its manifest."""

    name: str
    digest: str


class Part(_Frozen):
    """One object of the payload: its key in the store, its size in bytes, its digest."""

    key: str
    size: int = Field(ge=0)
    digest: str
    digest_algorithm: Literal["blake3"] = "blake3"


class Manifest(_Frozen):
    """Immutable description of a committed resource.

    Give `created` a value that a retry repeats: the digest covers it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    schema_: Literal["longhaul.manifest/v1"] = Field(default="longhaul.manifest/v1", alias="schema")
    kind: str
    name: str
    uid: str
    created: datetime
    config: dict[str, JsonValue] = {}
    inputs: Sequence[InputRef] = ()
    parts: Sequence[Part] = ()
    counts: dict[str, int] = {}
    extra: dict[str, JsonValue] = {}

    @property
    def digest(self) -> str:
        """BLAKE3 of the canonical JSON: sorted keys, no spaces, UTF-8."""
        return _digest(self.model_dump(mode="json"))

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts)


def write_manifest(
    store: ObjectStore,
    key: str,
    manifest: Manifest,
    *,
    authority: CommitAuthority = CommitAuthority.OBJECT_STORE,
) -> Manifest:
    """Commit: create the manifest where none is. The same manifest there already is success.

    Raises:
        AlreadyExists: another manifest was committed under the key (MANIFEST_DIFFERS).
        FailedPrecondition: the store has no conditional writes and the authority is the store.
    """
    document = manifest.model_dump(mode="json")
    data = json.dumps({**document, "digest": _digest(document)}, sort_keys=True, indent=1, ensure_ascii=False).encode()
    try:
        if authority is CommitAuthority.OBJECT_STORE:
            store.put(key, data, if_absent=True)
        elif store.exists(key):
            return _same(store, key, manifest)
        else:
            store.put(key, data)
    except AlreadyExists:
        return _same(store, key, manifest)
    return manifest


def read_manifest(store: ObjectStore, key: str) -> Manifest:
    """Read and verify a manifest.

    Raises:
        NotFound: nothing was committed under the key.
        DataLoss: it is damaged (MANIFEST_CORRUPT).
        FailedPrecondition: a newer program wrote it (MANIFEST_SCHEMA_UNKNOWN).
    """
    data = store.get(key)
    try:
        document = json.loads(data)
        digest = document.pop("digest")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise _corrupt(key, "it is not a JSON object with a digest") from error
    if _digest(document) != digest:
        raise _corrupt(key, "its digest does not match its content")
    if document.get("schema") != SCHEMA:
        raise FailedPrecondition(
            f"Manifest {key!r} has the schema {document.get('schema')!r}; this program reads {SCHEMA!r}.",
            reason="MANIFEST_SCHEMA_UNKNOWN",
            metadata={"key": key},
            action="Use the version of longhaul that wrote it, or a newer one.",
        )
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        raise _corrupt(key, f"it does not fit the schema: {error}") from error


def put_part(store: ObjectStore, key: str, data: bytes | memoryview) -> Part:
    """Write one object of a payload and describe it."""
    info = store.put(key, data)
    return Part(key=key, size=info.size, digest=hash_bytes(data))


def put_file_part(store: ObjectStore, key: str, path: Path) -> Part:
    """Copy a local file into the store as one object of a payload; the digest is of the local bytes."""
    digest = hash_file(path)
    info = store.put_file(key, path)
    return Part(key=key, size=info.size, digest=digest)


def verify_part(store: ObjectStore, part: Part) -> None:
    """Read the part back and compare. Raises DataLoss (PART_MISSING, PART_SIZE_DIFFERS, PART_DIGEST_DIFFERS)."""
    try:
        size = store.stat(part.key).size
        digest = hash_object(store, part.key) if size == part.size else ""
    except NotFound as error:
        raise _damaged(part, "PART_MISSING", "is missing") from error
    if size != part.size:
        raise _damaged(part, "PART_SIZE_DIFFERS", f"has {size} bytes, not {part.size}")
    if digest != part.digest:
        raise _damaged(part, "PART_DIGEST_DIFFERS", f"has the digest {digest}, not {part.digest}")


def _same(store: ObjectStore, key: str, manifest: Manifest) -> Manifest:
    there = read_manifest(store, key)
    if there.digest == manifest.digest:
        return there
    raise AlreadyExists(
        f"Another manifest is committed under {key!r}.",
        reason="MANIFEST_DIFFERS",
        metadata={"key": key, "committed": there.digest, "offered": manifest.digest},
    )


def _digest(document: dict[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hash_bytes(text.encode())


def _corrupt(key: str, problem: str) -> DataLoss:
    return DataLoss(f"Manifest {key!r} is damaged: {problem}.", reason="MANIFEST_CORRUPT", metadata={"key": key})


def _damaged(part: Part, reason: str, problem: str) -> DataLoss:
    return DataLoss(f"Object {part.key!r} {problem}.", reason=reason, metadata={"key": part.key})
