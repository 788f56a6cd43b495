"""Resources that a build leaves behind: its token set, and the tokenizer it trained."""

from datetime import datetime
from typing import Any

from longhaul_core.db import ResourceRow, resources
from longhaul_core.db.session import Session
from longhaul_core.errors import AlreadyExists
from longhaul_core.ids import Collection, ResourceName, fingerprint

from longhaul_corpus.adapters.records import TOKEN_SET, TOKENIZER
from longhaul_corpus.domain.jobs import JobState

COMMITTED = "COMMITTED"


def build_name(row: ResourceRow) -> str:
    """Full name of a build."""
    return _build_name(row.project, row.id)


def record_token_set(
    session: Session, row: ResourceRow, committed: dict[str, Any], tokenizer: dict[str, Any], now: datetime
) -> ResourceRow:
    """Make the token set of a build visible."""
    recorded, _ = resources.create(
        session,
        kind=TOKEN_SET,
        project=row.project,
        id=row.id,
        spec={"corpus_build": build_name(row)},
        state=COMMITTED,
        status={**committed, "tokenizer": tokenizer["name"]},
        fingerprint=fingerprint(committed["digest"]),
        request_id="",
        now=now,
    )
    return recorded


def refuse_foreign_tokenizer(session: Session, project: str, id: str) -> None:
    """Raise AlreadyExists where the tokenizer that a build would train has the name of one that it did not make."""
    existing = resources.find(session, TOKENIZER, project, id)
    if existing is not None and existing.spec.get("corpus_build", "") != _build_name(project, id):
        raise AlreadyExists(
            f"The build {id!r} would train a tokenizer of its name, but a tokenizer {id!r} exists",
            reason="TOKENIZER_EXISTS",
            metadata={"tokenizer": str(ResourceName(project, Collection.TOKENIZERS, id))},
            action="Name that tokenizer in the build, or use another id.",
        )


def record_tokenizer(session: Session, row: ResourceRow, trained: dict[str, Any], now: datetime) -> None:
    """Make the tokenizer that a build trained visible; an earlier one of the same build is replaced."""
    if row.spec["training"] is None:
        return
    refuse_foreign_tokenizer(session, row.project, row.id)
    status = {**trained, "reason": None}
    spec = {"corpus_build": build_name(row), "training": row.spec["training"], "datasets": row.spec["datasets"]}
    existing = resources.find(session, TOKENIZER, row.project, row.id)
    if existing is not None:
        resources.update(session, existing, spec=spec, status=status, fingerprint=fingerprint(spec), now=now)
        return
    resources.create(
        session,
        kind=TOKENIZER,
        project=row.project,
        id=row.id,
        spec=spec,
        state=JobState.SUCCEEDED,
        status=status,
        fingerprint=fingerprint(spec),
        request_id="",
        now=now,
    )


def _build_name(project: str, id: str) -> str:
    return str(ResourceName(project, Collection.CORPUS_BUILDS, id))
