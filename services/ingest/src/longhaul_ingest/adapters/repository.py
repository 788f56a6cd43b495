"""Ingestions in the database: each function is one transaction's work, and changes only the state that it expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from longhaul_core.db import Claim, ResourceRow, events, queue, resources
from longhaul_core.db.session import Session
from longhaul_core.engine import WORKER_ENDED
from longhaul_core.errors import Aborted, NotFound
from longhaul_core.manifests import Manifest

from longhaul_ingest.domain.ingestion import (
    DATASET,
    INGESTION,
    TERMINAL,
    IngestionStatus,
    JobState,
    Reason,
    dataset_prefix,
    ingestion_fingerprint,
    manifest_key,
)
from longhaul_ingest.domain.planning import Shard

SHARDS: Final = "shards"


@dataclass(frozen=True, slots=True)
class JobKey:
    """The queue's job of one attempt of one ingestion; a stale one finds nothing to change."""

    project: str
    id: str
    uid: str
    attempt: int

    def __str__(self) -> str:
        return f"{INGESTION}/{self.project}/{self.id}/{self.uid}/{self.attempt}"

    @classmethod
    def parse(cls, job: str) -> JobKey:
        """Inverse of `str`."""
        _, project, id, uid, attempt = job.split("/")
        return cls(project, id, uid, int(attempt))

    @classmethod
    def of(cls, row: ResourceRow) -> JobKey:
        """The present attempt of an ingestion."""
        return cls(row.project, row.id, row.uid, status_of(row).attempt)


def status_of(row: ResourceRow) -> IngestionStatus:
    """The status that a row holds."""
    return IngestionStatus.from_dict(row.status)


def prefix_of(row: ResourceRow) -> str:
    """Where the dataset of an ingestion lies."""
    return dataset_prefix(row.project, row.id, row.fingerprint)


def parts_of(row: ResourceRow) -> str:
    """Where the present attempt writes its parts, so that what is left of an earlier one is never in its way."""
    return f"{prefix_of(row)}/parts-{status_of(row).attempt}"


def create(
    session: Session, project: str, id: str, spec: Mapping[str, Any], request_id: str, now: datetime
) -> ResourceRow:
    """Create an ingestion, or return the one there is; one without a result (failed, cancelled) starts again."""
    existing = resources.find(session, INGESTION, project, id)
    if existing is not None and _restarts(session, existing, request_id):
        return _restart(session, existing, spec, request_id, now)
    row, created = resources.create(
        session,
        kind=INGESTION,
        project=project,
        id=id,
        spec=spec,
        state=JobState.QUEUED,
        status=IngestionStatus().to_dict(),
        fingerprint=ingestion_fingerprint(spec),
        request_id=request_id,
        now=now,
    )
    if created:
        _log_state(session, row, "CREATED", "accepted", now)
    return row


def begin(session: Session, job: JobKey, shards: Sequence[Shard], now: datetime) -> None:
    """QUEUED to RUNNING with the shards queued; nothing where another replica was first."""
    row = _expect(session, job, JobState.QUEUED)
    if row is None:
        return
    items = [
        {"index": shard.index, "source": shard.source, "pieces": [piece.to_list() for piece in shard.pieces]}
        for shard in shards
    ]
    queue.enqueue(session, str(job), SHARDS, items)
    status = replace(
        status_of(row),
        shards_total=len(shards),
        bytes_total=sum(shard.size for shard in shards),
        started_at=now.isoformat(),
    )
    row = resources.update(session, row, state=JobState.RUNNING, status=status.to_dict(), now=now)
    _log_state(session, row, "STARTED", f"{len(shards)} shards, {status.bytes_total} bytes", now)


def complete_shard(session: Session, claim: Claim, result: Mapping[str, Any], now: datetime) -> None:
    """Record the result of a shard, once. Raises Aborted where the claim or the attempt is stale."""
    row = _expect(session, JobKey.parse(claim.job), JobState.RUNNING)
    if row is None:
        raise Aborted(f"{claim.job} is no longer running", reason="STALE_JOB")
    queue.complete(session, claim, result)
    status = status_of(row).with_shard(claim.index, result["tally"])
    resources.update(session, row, status=status.to_dict(), now=now)


@dataclass(frozen=True, slots=True)
class Setback:
    """An attempt at a shard that came to nothing and may be repeated.

    Attributes:
        where: The document or file that was in work.
        reason: WORKER_DIED, WORKER_MEMORY_EXCEEDED, or the reason of the error.
        message: What happened.
        delay_seconds: Before the next attempt.
    """

    where: str
    reason: str
    message: str
    delay_seconds: float = 0.0


def record_setback(
    session: Session, claim: Claim, setback: Setback, *, attempts: int, allowed: int, now: datetime
) -> ResourceRow | None:
    """Queue a shard again, or set it aside after `attempts`; more than `allowed` lost shards fail the ingestion.

    Returns:
        The ingestion where this ended it.
    """
    job = JobKey.parse(claim.job)
    row = _expect(session, job, JobState.RUNNING)
    if row is None:
        return None
    status = status_of(row)
    deaths = status.deaths.get(str(claim.index), 0) + 1
    status = replace(status, deaths={**status.deaths, str(claim.index): deaths})
    events.append(
        session, INGESTION, row.project, row.id,
        type=setback.reason, cause="SHARD", message=f"shard {claim.index} at {setback.where}: {setback.message}",
        now=now,
    )  # fmt: skip
    queue.fail(session, claim, setback.message, retry=deaths < attempts, delay_seconds=setback.delay_seconds)
    if deaths >= attempts:
        lost = f"shard {claim.index} at {setback.where}, {deaths} times: {setback.message}"
        status = replace(status, lost=(*status.lost, lost))
    resources.update(session, row, status=status.to_dict(), now=now)
    return end(session, job, _lost_shards(status, setback), now) if len(status.lost) > allowed else None


def show_progress(
    session: Session, job: JobKey, live: Mapping[str, Mapping[str, Any]], rate: float, now: datetime
) -> None:
    """Publish the counts of shards in work."""
    row = _expect(session, job, JobState.RUNNING)
    if row is None:
        return
    status = replace(status_of(row), live=live, rate=rate)
    if status != status_of(row):
        resources.update(session, row, status=status.to_dict(), now=now)


def end(session: Session, job: JobKey, reason: Reason, now: datetime) -> ResourceRow | None:
    """To FAILED, unless the ingestion has ended already (None); the work on its shards becomes stale."""
    row = _expect(session, job, JobState.QUEUED, JobState.RUNNING)
    if row is None:
        return None
    queue.discard(session, str(job))
    status = status_of(row).ended(now, reason)
    row = resources.update(session, row, state=JobState.FAILED, status=status.to_dict(), now=now)
    _log_state(session, row, reason.code, reason.message, now)
    return row


def succeed(session: Session, job: JobKey, manifest: Manifest, tally: Mapping[str, Any], now: datetime) -> None:
    """To SUCCEEDED with its dataset, after the manifest was written."""
    row = _expect(session, job, JobState.QUEUED, JobState.RUNNING)
    if row is None:
        return
    queue.discard(session, str(job))
    key = manifest_key(prefix_of(row))
    facts = {
        "ingestion": f"projects/{row.project}/ingestions/{row.id}",
        "manifest_key": key,
        "digest": manifest.digest,
        "content_digest": manifest.extra["content_digest"],
        "documents": manifest.counts["kept"],
        "shards": sum("/shard-" in part.key for part in manifest.parts),
        "sources": manifest.extra["sources"],
    }
    resources.create(
        session, kind=DATASET, project=row.project, id=row.id, spec=facts, state="COMMITTED",
        fingerprint=manifest.digest, now=now,
    )  # fmt: skip
    status = replace(status_of(row).ended(now), tally=tally)
    row = resources.update(session, row, state=JobState.SUCCEEDED, status=status.to_dict(), now=now)
    _log_state(session, row, "COMMITTED", f"{manifest.counts['kept']} documents, digest {manifest.digest}", now)


def request_cancel(session: Session, project: str, id: str, now: datetime) -> ResourceRow:
    """To CANCELLING, which ends in CANCELLED; a terminal ingestion stays as it is."""
    row = resources.get(session, INGESTION, project, id, for_update=True)
    if row.state in TERMINAL or row.state == JobState.CANCELLING:
        return row
    queue.discard(session, str(JobKey.of(row)))
    row = resources.update(session, row, state=JobState.CANCELLING, now=now)
    _log_state(session, row, "USER", "cancel requested", now)
    return row


def finish_cancel(session: Session, job: JobKey, now: datetime) -> ResourceRow | None:
    """CANCELLING to CANCELLED; None where another replica was first."""
    row = _expect(session, job, JobState.CANCELLING)
    if row is None:
        return None
    reason = Reason("CANCELLED", "Cancelled by a user.", "Create it again to start over.")
    status = status_of(row).ended(now, reason)
    row = resources.update(session, row, state=JobState.CANCELLED, status=status.to_dict(), now=now)
    _log_state(session, row, "USER", "cancelled", now)
    return row


def _expect(session: Session, job: JobKey, *states: JobState) -> ResourceRow | None:
    """The ingestion, locked, where it is in one of the states and in the same attempt."""
    try:
        row = resources.get(session, INGESTION, job.project, job.id, for_update=True)
    except NotFound:
        return None
    return row if row.state in states and JobKey.of(row) == job else None


def _restarts(session: Session, row: ResourceRow, request_id: str) -> bool:
    if request_id and request_id in (row.request_id, status_of(row).restarted_by):
        return False
    if row.state in (JobState.FAILED, JobState.CANCELLED):
        return True
    return row.state == JobState.SUCCEEDED and resources.find(session, DATASET, row.project, row.id) is None


def _restart(
    session: Session, row: ResourceRow, spec: Mapping[str, Any], request_id: str, now: datetime
) -> ResourceRow:
    status = IngestionStatus(attempt=status_of(row).attempt + 1, restarted_by=request_id)
    row = resources.update(
        session, row, state=JobState.QUEUED, status=status.to_dict(), spec=spec,
        fingerprint=ingestion_fingerprint(spec), now=now,
    )  # fmt: skip
    _log_state(session, row, "RESTARTED", f"attempt {status.attempt}", now)
    return row


def _lost_shards(status: IngestionStatus, setback: Setback) -> Reason:
    poison = setback.reason in WORKER_ENDED
    return Reason(
        "POISON_SHARD" if poison else setback.reason,
        f"{len(status.lost)} shards could not be worked off: {status.lost[-1]}",
        "Take the document out of the source, give the workers more memory, or raise maximum_lost_shards."
        if poison
        else "Remove the cause and create the ingestion again, or raise maximum_lost_shards.",
        {"shards": "; ".join(status.lost)[:2000]},
    )


def _log_state(session: Session, row: ResourceRow, cause: str, message: str, now: datetime) -> None:
    events.append(
        session, INGESTION, row.project, row.id,
        type="STATE_CHANGED", cause=cause, message=message, data={"state": row.state}, now=now,
    )  # fmt: skip
