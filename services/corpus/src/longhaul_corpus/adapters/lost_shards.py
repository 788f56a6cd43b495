"""Dataset files that take down each worker: set aside up to the build's limit, so that the rest goes on.

In the first phase over files nothing was made of the file yet: its item is queued once more, only to count its
documents, which end as failed. Later on, documents of other files may have been dropped as copies of its own: the
build then begins anew without the file, so that they are not lost with it.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from longhaul_core.db import ResourceRow, events, queue, resources
from longhaul_core.db.session import Session
from longhaul_core.engine import WORKER_ENDED

from longhaul_corpus.adapters.records import Job, Status, move, reason
from longhaul_corpus.domain.jobs import JobState
from longhaul_corpus.domain.phases import Phase, signed_shards

PHASES_OVER_FILES = frozenset(
    {Phase.SIGNATURES, Phase.PASSAGES, Phase.CUT, Phase.DECONTAMINATE, Phase.PIECES, Phase.TOKENISE}
)

LostShard = dict[str, Any]
"""`key` of the file, `phase` in which it was lost, `message`."""


def poisoned(phase: Phase, failures: Sequence[queue.ItemFailure]) -> bool:
    """Whether each failure is of one file, and took its workers down."""
    return phase in PHASES_OVER_FILES and all(json.loads(found.error)["code"] in WORKER_ENDED for found in failures)


def lost_shards(
    phase: Phase, failures: Sequence[queue.ItemFailure], signed: Sequence[dict[str, Any]]
) -> list[LostShard]:
    """Describe the files of failed items; `signed` are the results of the first phase over files."""
    lost = []
    for failure in failures:
        key = failure.payload["key"] if phase is Phase.SIGNATURES else signed_shards(signed)[failure.index]["key"]
        error = json.loads(failure.error)
        message = f"{key}, {error['failures']} times in {phase.value}: {error['message']}"
        lost.append({"key": key, "phase": phase.value, "message": message})
    return lost


def poison_reason(lost: Sequence[LostShard]) -> dict[str, Any]:
    """Why a build fails that lost more files than it may."""
    return reason(
        "POISON_SHARD",
        f"{len(lost)} files of the datasets could not be worked off: {lost[-1]['message']}",
        "Take the document out of the dataset, give the workers more memory, or raise corpus.maximum_lost_shards.",
    )


def leave_out(session: Session, row: ResourceRow, now: datetime, lost: Sequence[LostShard]) -> None:
    """Queue the given-up items of the first phase again, marked as lost."""
    job = str(Job.of(row))
    for failure in queue.failures(session, job, Phase.SIGNATURES):
        found = next(shard for shard in reversed(lost) if shard["key"] == failure.payload["key"])
        queue.requeue(session, job, Phase.SIGNATURES, failure.index, {**failure.payload, "lost": found["message"]})
    row = resources.update(session, row, status={**row.status, "lost": list(lost)}, now=now)
    _note(session, row, lost, now)


def begin_without(session: Session, row: ResourceRow, now: datetime, lost: Sequence[LostShard]) -> None:
    """Begin the build anew: the files in `lost` are only counted."""
    queue.discard(session, str(Job.of(row)))
    status: Status = {"attempt": int(row.status["attempt"]) + 1, "lost": list(lost)}
    row = move(session, row, JobState.QUEUED, status, now, cause="SHARD_SET_ASIDE", message=lost[-1]["message"])
    _note(session, row, lost, now)


def _note(session: Session, row: ResourceRow, lost: Sequence[LostShard], now: datetime) -> None:
    events.append(
        session,
        row.kind,
        row.project,
        row.id,
        type="SHARD_SET_ASIDE",
        cause=lost[-1]["phase"].upper(),
        message=lost[-1]["message"],
        now=now,
    )
