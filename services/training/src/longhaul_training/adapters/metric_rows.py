"""Metric rows of runs: the newest in the database, older ones in append-only segments of the object store.

One row a step: the values of the newest epoch that made it. Segments are JSON lines, gzipped, named by their first
and last step and the sequence of their last row; where two hold the same step, or a segment and the table do, the
higher epoch wins.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from longhaul_core.db.dialects import is_sqlite
from longhaul_core.db.prepared import Prepared
from longhaul_core.db.schema import step_metrics
from longhaul_core.db.session import Session
from longhaul_core.objects import ObjectStore
from sqlalchemy import bindparam, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

# Rows of a run that stay in the database, and rows a segment; both bound the work of one read.
KEPT_ROWS = 4096
SEGMENT_ROWS = 2048


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One step's metrics; `values` are plain JSON, `sequence` the position in the stream of commits."""

    step: int
    epoch: int
    sequence: int
    replayed: bool
    at: datetime
    values: dict[str, Any]


def _upsert(insert: Any) -> Prepared:
    newer = {name: insert.excluded[name] for name in _NEWER}
    older = step_metrics.c.epoch <= insert.excluded.epoch
    return Prepared(insert.on_conflict_do_update(index_elements=["run_uid", "step"], set_=newer, where=older))


_NEWER = ("epoch", "sequence", "replayed", "at", "values")
_UPSERTS = {True: _upsert(sqlite.insert(step_metrics)), False: _upsert(postgresql.insert(step_metrics))}
_NEWEST = Prepared(select(func.max(step_metrics.c.sequence)).where(step_metrics.c.run_uid == bindparam("of_run")))


def upsert(session: Session, run_uid: str, rows: Iterable[MetricRow]) -> None:
    """Writes rows; a row of an older epoch than the one that is there changes nothing."""
    statement = _UPSERTS[is_sqlite(session)]
    for row in rows:
        statement.rows(session, {"run_uid": run_uid, **{name: getattr(row, name) for name in ("step", *_NEWER)}})


def rows_after_step(session: Session, run_uid: str, after_step: int, limit: int) -> list[MetricRow]:
    """Rows of the table by step."""
    statement = (
        select(step_metrics)
        .where(step_metrics.c.run_uid == run_uid, step_metrics.c.step > after_step)
        .order_by(step_metrics.c.step)
        .limit(limit)
    )
    return [_row(found) for found in session.execute(statement)]


def rows_after_sequence(session: Session, run_uid: str, after_sequence: int, limit: int) -> list[MetricRow]:
    """Rows of the table in the order of their commits."""
    statement = (
        select(step_metrics)
        .where(step_metrics.c.run_uid == run_uid, step_metrics.c.sequence > after_sequence)
        .order_by(step_metrics.c.sequence)
        .limit(limit)
    )
    return [_row(found) for found in session.execute(statement)]


def newest_sequence(session: Session, run_uid: str) -> int:
    """Sequence of the row that was committed last; 0 before the first."""
    [[newest]] = _NEWEST.rows(session, {"of_run": run_uid})
    return int(newest or 0)


def rows_to_archive(session: Session, run_uid: str) -> list[MetricRow]:
    """The oldest rows, one segment of them, once the table holds more than it should; else none."""
    count = session.execute(select(func.count()).where(step_metrics.c.run_uid == run_uid)).scalar_one()
    if count < KEPT_ROWS + SEGMENT_ROWS:
        return []
    return rows_after_step(session, run_uid, -1, SEGMENT_ROWS)


def forget(session: Session, run_uid: str, rows: Sequence[MetricRow]) -> None:
    """Removes archived rows from the table, unless they were replaced meanwhile."""
    for row in rows:
        session.execute(
            delete(step_metrics).where(
                step_metrics.c.run_uid == run_uid,
                step_metrics.c.step == row.step,
                step_metrics.c.sequence == row.sequence,
            )
        )


def write_segment(objects: ObjectStore, prefix: str, rows: Sequence[MetricRow]) -> str:
    """Writes a segment and returns its key; the same rows give the same key and bytes."""
    newest = max(row.sequence for row in rows)
    key = f"{prefix}/{rows[0].step:010d}-{rows[-1].step:010d}-{newest:012d}.jsonl.gz"
    lines = "".join(json.dumps(_to_json(row), sort_keys=True) + "\n" for row in rows)
    objects.put(key, gzip.compress(lines.encode(), mtime=0))
    return key


def read_segments(objects: ObjectStore, prefix: str, after_step: int, limit: int) -> list[MetricRow]:
    """Up to `limit` rows after a step from the segments, by step; the newest epoch of each."""
    found: dict[int, MetricRow] = {}
    for info in objects.list(f"{prefix}/"):
        first, last = (int(part) for part in info.key.rsplit("/", 1)[1].split("-")[:2])
        if last <= after_step:
            continue
        if len(found) >= limit and first > sorted(found)[limit - 1]:
            break
        for line in gzip.decompress(objects.get(info.key)).splitlines():
            row = _from_json(json.loads(line))
            if row.step > after_step and (row.step not in found or _age(found[row.step]) <= _age(row)):
                found[row.step] = row
    return [found[step] for step in sorted(found)[:limit]]


def read_archived(
    objects: ObjectStore, prefix: str, after_sequence: int, before_sequence: int, limit: int
) -> list[MetricRow]:
    """Up to `limit` archived rows between two sequences, by sequence."""
    rows: list[MetricRow] = []
    for info in objects.list(f"{prefix}/"):
        newest = int(info.key.rsplit("-", 1)[1].split(".", 1)[0])
        if newest > after_sequence:
            lines = gzip.decompress(objects.get(info.key)).splitlines()
            rows += [_from_json(json.loads(line)) for line in lines]
    wanted = [row for row in rows if after_sequence < row.sequence < before_sequence]
    return sorted(wanted, key=lambda row: row.sequence)[:limit]


def merge(archived: Sequence[MetricRow], newest: Sequence[MetricRow], limit: int) -> list[MetricRow]:
    """Both by step, the newest of each."""
    rows = {row.step: row for row in archived}
    for row in newest:
        if row.step not in rows or _age(rows[row.step]) <= _age(row):
            rows[row.step] = row
    return [rows[step] for step in sorted(rows)[:limit]]


def _age(row: MetricRow) -> tuple[int, int]:
    """Orders the rows of one step: a higher epoch is newer, within an epoch what was committed later."""
    return row.epoch, row.sequence


def _row(found: Any) -> MetricRow:
    return MetricRow(found.step, found.epoch, found.sequence, found.replayed, found.at, dict(found._mapping["values"]))


def _to_json(row: MetricRow) -> dict[str, Any]:
    return {
        "step": row.step,
        "epoch": row.epoch,
        "sequence": row.sequence,
        "replayed": row.replayed,
        "at": row.at.timestamp(),
        "values": row.values,
    }


def _from_json(value: dict[str, Any]) -> MetricRow:
    at = datetime.fromtimestamp(value["at"], UTC)
    return MetricRow(value["step"], value["epoch"], value["sequence"], value["replayed"], at, value["values"])
