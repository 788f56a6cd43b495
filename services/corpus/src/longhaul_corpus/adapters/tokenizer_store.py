"""Tokenizers in the object store: `tokenizer.json` beside a manifest that commits it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from longhaul_core.errors import DataLoss
from longhaul_core.manifests import (
    CommitAuthority,
    InputRef,
    Manifest,
    hash_bytes,
    put_part,
    read_manifest,
    write_manifest,
)
from longhaul_core.objects import ObjectStore
from tokenizers import Tokenizer

from longhaul_corpus.domain.tokenizer import read_tokenizer, token_id, vocabulary_size

FILE = "tokenizer.json"
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class StoredTokenizer:
    """A committed tokenizer, loaded."""

    tokenizer: Tokenizer
    name: str
    key: str
    digest: str
    manifest_key: str
    manifest_digest: str
    vocabulary_size: int
    end_of_text: str
    end_of_text_id: int

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the tokenizer itself as JSON values."""
        return {
            "name": self.name,
            "key": self.key,
            "digest": self.digest,
            "manifest_key": self.manifest_key,
            "manifest_digest": self.manifest_digest,
            "vocabulary_size": self.vocabulary_size,
            "end_of_text": self.end_of_text,
            "end_of_text_id": self.end_of_text_id,
        }


def commit_tokenizer(
    store: ObjectStore,
    prefix: str,
    tokenizer: Tokenizer,
    *,
    name: str,
    uid: str,
    created: datetime,
    end_of_text: str,
    inputs: Sequence[tuple[str, str]] = (),
    documents: int = 0,
) -> StoredTokenizer:
    """Write the tokenizer and its manifest below `prefix`; the same tokenizer there already is success."""
    part = put_part(store, f"{prefix}/{FILE}", tokenizer.to_str(pretty=True).encode())
    manifest = Manifest(
        kind="tokenizer",
        name=name,
        uid=uid,
        created=created,
        inputs=[InputRef(name=source, digest=digest) for source, digest in inputs],
        parts=[part],
        counts={"vocabulary": vocabulary_size(tokenizer), "documents": documents},
        extra={"end_of_text": end_of_text, "end_of_text_id": token_id(tokenizer, end_of_text)},
    )
    key = f"{prefix}/{MANIFEST}"
    return _stored(tokenizer, write_manifest(store, key, manifest, authority=CommitAuthority.of(store)), key)


def load_tokenizer(store: ObjectStore, manifest_key: str, digest: str) -> StoredTokenizer:
    """Load a committed tokenizer. Raises DataLoss where it is not what its digest says."""
    manifest = read_manifest(store, manifest_key)
    document = store.get(manifest.parts[0].key)
    if manifest.digest != digest or hash_bytes(document) != manifest.parts[0].digest:
        raise DataLoss(
            f"Tokenizer {manifest.name} is not the one that was committed",
            reason="TOKENIZER_CHANGED",
            metadata={"manifest_key": manifest_key, "expected": digest, "found": manifest.digest},
        )
    tokenizer, _ = read_tokenizer(document, str(manifest.extra["end_of_text"]))
    return _stored(tokenizer, manifest, manifest_key)


def _stored(tokenizer: Tokenizer, manifest: Manifest, manifest_key: str) -> StoredTokenizer:
    end_of_text = str(manifest.extra["end_of_text"])
    return StoredTokenizer(
        tokenizer=tokenizer,
        name=manifest.name,
        key=manifest.parts[0].key,
        digest=manifest.parts[0].digest,
        manifest_key=manifest_key,
        manifest_digest=manifest.digest,
        vocabulary_size=vocabulary_size(tokenizer),
        end_of_text=end_of_text,
        end_of_text_id=token_id(tokenizer, end_of_text),
    )
