"""Names, ids and fingerprints of resources."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from blake3 import blake3

from longhaul_core.errors import InvalidArgument

ANY_PROJECT = "-"
"""The project of a List over all projects (AIP-159)."""

FINGERPRINT_CHARACTERS = 32
"""128 bits in hexadecimal: enough to tell configurations apart, short enough to read."""


class Collection(StrEnum):
    """The collection part of resource names, one a kind of resource."""

    INGESTIONS = "ingestions"
    DATASETS = "datasets"
    CORPUS_BUILDS = "corpusBuilds"
    TOKEN_SETS = "tokenSets"  # noqa: S105 - no password
    TOKENIZERS = "tokenizers"
    TRAINING_RUNS = "trainingRuns"
    TASKS = "tasks"
    EXPERIMENTS = "experiments"
    CHECKPOINTS = "checkpoints"
    EVALUATIONS = "evaluations"
    EVALUATION_SUITES = "evaluationSuites"
    UPLOADS = "uploads"


_ID_PATTERN = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ID_RULE = "1 to 63 lower-case letters, digits and hyphens, with a letter or digit at both ends"


def new_uid() -> str:
    """Return a new random identity, 32 hexadecimal characters."""
    return uuid.uuid4().hex


def canonical_json(value: Any) -> bytes:
    """Encode a value as JSON with sorted keys and without spaces: equal values give equal bytes.

    Raises:
        ValueError: The value holds NaN or an infinity.
        TypeError: The value is not of JSON's types.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def fingerprint(value: Any) -> str:
    """Return the BLAKE3 digest of the canonical JSON of a value, 32 hexadecimal characters."""
    return blake3(canonical_json(value)).hexdigest()[:FINGERPRINT_CHARACTERS]


@dataclass(frozen=True, slots=True)
class ResourceName:
    """A name of the form `projects/{project}/{collection}/{id}`."""

    project: str
    collection: str
    id: str

    def __str__(self) -> str:
        return f"projects/{self.project}/{self.collection}/{self.id}"


def check_id(text: str, field: str = "id") -> str:
    """Return an id that is well formed.

    Raises:
        InvalidArgument: The id is not; the violation names `field`.
    """
    if _ID_PATTERN.fullmatch(text):
        return text
    raise _invalid(field, f"{text!r} is not an id: {_ID_RULE}")


def parse_name(text: str, collection: str, field: str = "name") -> ResourceName:
    """Split a resource name of one collection.

    Raises:
        InvalidArgument: The name has another form or collection, or an id in it is not well formed.
    """
    parts = text.split("/")
    if len(parts) != 4 or parts[0] != "projects" or parts[2] != collection:
        raise _invalid(field, f"{text!r} is not a name of the form projects/PROJECT/{collection}/ID")
    return ResourceName(check_id(parts[1], field), collection, check_id(parts[3], field))


def parse_parent(text: str, field: str = "parent", *, any_project: bool = False) -> str:
    """Return the project of a parent `projects/{project}`; `projects/-` where `any_project` allows it.

    Raises:
        InvalidArgument: The parent has another form.
    """
    parts = text.split("/")
    if len(parts) != 2 or parts[0] != "projects":
        raise _invalid(field, f"{text!r} is not a parent of the form projects/PROJECT")
    if any_project and parts[1] == ANY_PROJECT:
        return ANY_PROJECT
    return check_id(parts[1], field)


def _invalid(field: str, description: str) -> InvalidArgument:
    return InvalidArgument(f"{field}: {description}", reason="NAME_INVALID", violations=[(field, description)])
