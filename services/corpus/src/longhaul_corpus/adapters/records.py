"""How jobs and their results stand in the database: kinds, job names, statuses as JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from longhaul_core.db import ItemFailure, ResourceRow, events, resources
from longhaul_core.db.session import Session
from longhaul_core.errors import AlreadyExists, DataLoss, FailedPrecondition, InvalidArgument, LonghaulError, NotFound
from longhaul_core.ids import Collection, ResourceName
from pydantic import TypeAdapter

from longhaul_corpus.adapters.workspace import BuildContext, Input
from longhaul_corpus.domain.jobs import JobState
from longhaul_corpus.domain.spec import BuildSpec, TokenizerTraining

BUILD = "corpus-build"
TOKENIZER = "tokenizer"
TOKEN_SET = "token-set"  # noqa: S105  (no password)

_SPEC = TypeAdapter(BuildSpec)
_TRAINING = TypeAdapter(TokenizerTraining)
_INPUTS = TypeAdapter(tuple[Input, ...])
_FINGERPRINT_IN_KEYS = 12

PERMANENT = (AlreadyExists, DataLoss, FailedPrecondition, InvalidArgument, NotFound)
"""Errors that another attempt at the same step would meet again."""

Status = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt at a resource: the name under which its items stand in the work queue."""

    kind: str
    project: str
    id: str
    attempt: str

    def __str__(self) -> str:
        return "/".join((self.kind, self.project, self.id, self.attempt))

    @classmethod
    def parse(cls, text: str) -> "Job":
        """Read a job's name."""
        return cls(*text.split("/"))

    @classmethod
    def of(cls, row: ResourceRow) -> "Job":
        """The present attempt at a resource."""
        return cls(row.kind, row.project, row.id, f"{row.uid[:8]}-{row.status['attempt']}")


def dump_spec(spec: BuildSpec) -> dict[str, Any]:
    """Return a spec as JSON values."""
    document: dict[str, Any] = _SPEC.dump_python(spec, mode="json")
    return document


def load_spec(document: Mapping[str, Any]) -> BuildSpec:
    """Read a spec that `dump_spec` wrote."""
    return _SPEC.validate_python(document)


def dump_training(training: TokenizerTraining) -> dict[str, Any]:
    """Return a tokenizer's training as JSON values."""
    document: dict[str, Any] = _TRAINING.dump_python(training, mode="json")
    return document


def load_training(document: Mapping[str, Any]) -> TokenizerTraining:
    """Read what `dump_training` wrote."""
    return _TRAINING.validate_python(document)


def dump_inputs(inputs: tuple[Input, ...]) -> list[dict[str, str]]:
    """Return inputs as JSON values."""
    rows: list[dict[str, str]] = _INPUTS.dump_python(inputs, mode="json")
    return rows


def context_of(row: ResourceRow, store_url: str) -> BuildContext:
    """What the steps of a build know."""
    spec, status = load_spec(row.spec), row.status
    own_tokenizer = str(ResourceName(row.project, Collection.TOKENIZERS, row.id))
    named = status.get("tokenizer_input")
    return BuildContext(
        store_url=store_url,
        prefix=object_prefix(row, "tokensets"),
        tokenizer_prefix=object_prefix(row, "tokenizers"),
        name=str(ResourceName(row.project, Collection.TOKEN_SETS, row.id)),
        uid=row.uid,
        created=row.created_at,
        tokenizer_name=spec.tokenizer or own_tokenizer,
        spec=spec,
        datasets=_INPUTS.validate_python(status.get("inputs", [])),
        tokenizer=Input(**named) if named else None,
    )


def object_prefix(row: ResourceRow, collection: str) -> str:
    """Folder of what an attempt writes; each has one of its own, so that none sees or removes another's objects."""
    digest = row.fingerprint[:_FINGERPRINT_IN_KEYS]
    return f"projects/{row.project}/{collection}/{row.id}/{digest}-{Job.of(row).attempt}"


def reason_of(error: LonghaulError) -> dict[str, Any]:
    """Why a job is in its state, for a person, as JSON values."""
    return {"code": error.reason, "message": error.message, "action": error.action, "metadata": error.metadata}


def reason_of_failure(failure: ItemFailure) -> dict[str, Any]:
    """The reason that a failed item left, without how often it was tried."""
    left: dict[str, Any] = json.loads(failure.error)
    return {name: left[name] for name in ("code", "message", "action", "metadata")}


def reason(code: str, message: str, action: str = "") -> dict[str, Any]:
    """Reason that is no error."""
    return {"code": code, "message": message, "action": action, "metadata": {}}


def move(
    session: Session, row: ResourceRow, state: JobState, status: Status, now: datetime, *, cause: str, message: str = ""
) -> ResourceRow:
    """Change the state of a job and record the change as an event."""
    moved = resources.update(session, row, state=state.value, status=status, now=now)
    events.append(
        session,
        row.kind,
        row.project,
        row.id,
        type="STATE_CHANGED",
        cause=cause,
        message=message,
        data={"from": row.state, "to": state.value},
        now=now,
    )
    return moved
