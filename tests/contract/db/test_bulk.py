"""Many resources at once: what is written is what single writes would have written."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from longhaul_core.db import Database
from longhaul_core.db.bulk import Saved, Told, find_many, save_many
from longhaul_core.db.events import list_events
from longhaul_core.db.resources import changes, create, delete, get, update
from longhaul_core.db.revisions import current_revision, take_revisions
from longhaul_core.db.session import Session
from longhaul_core.errors import Aborted

NOW = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
LATER = datetime(2026, 11, 22, 9, 31, tzinfo=UTC)
KIND, PROJECT = "thing", ""


def make(session: Session, id: str) -> None:
    create(session, kind=KIND, project=PROJECT, id=id, spec={"a": 1}, state="NEW", fingerprint=id, now=NOW)


def test_many_are_changed_and_created_with_their_events_in_order(db: Database) -> None:
    db.run_sync(lambda session: [make(session, id) for id in ("a", "b", "gone")])
    db.run_sync(lambda session: delete(session, get(session, KIND, PROJECT, "gone"), now=NOW))

    def save(session: Session) -> int:
        before = current_revision(session)
        rows = find_many(session, KIND, PROJECT, ["a", "b", "gone", "new"])
        assert {id: row.deleted for id, row in rows.items()} == {"a": False, "b": False, "gone": True}
        saves = [Saved(id, "OLD", {"of": id}, rows.get(id), fingerprint=id) for id in ("b", "a", "new", "gone")]
        told = [Told("a", "FIRST", data={"n": 1}), Told("new", "SECOND"), Told("a", "THIRD", "cause", "message")]
        written = save_many(session, KIND, PROJECT, saves, told, LATER)
        assert [written[id].revision - before for id in ("b", "a", "new", "gone")] == [1, 2, 3, 4]
        return before

    before = db.run_sync(save)

    def look(session: Session) -> None:
        found = changes(session, KIND, PROJECT, before, 10)
        assert [row.id for row in found] == ["b", "a", "new", "gone"]
        assert {row.state for row in found} == {"OLD"}
        kept = get(session, KIND, PROJECT, "a")
        assert (kept.spec, kept.status, kept.created_at, kept.updated_at) == ({"a": 1}, {"of": "a"}, NOW, LATER)
        assert not get(session, KIND, PROJECT, "gone").deleted
        assert [one.type for one in list_events(session, KIND, PROJECT, "a")] == ["FIRST", "THIRD"]
        assert list_events(session, KIND, PROJECT, "a")[0].data == {"n": 1}
        assert current_revision(session) == before + 7

    db.read_sync(look)


def test_one_that_changed_meanwhile_stops_all(db: Database) -> None:
    db.run_sync(lambda session: [make(session, id) for id in ("a", "b")])
    rows = db.read_sync(lambda session: find_many(session, KIND, PROJECT, ["a", "b"]))
    db.run_sync(lambda session: update(session, rows["a"], state="OTHER", now=LATER))
    saves = [Saved(id, "MINE", {}, rows[id]) for id in ("a", "b")]
    with pytest.raises(Aborted, match="changed"):
        db.run_sync(lambda session: save_many(session, KIND, PROJECT, saves, [Told("a", "X")], LATER))
    assert db.read_sync(lambda session: get(session, KIND, PROJECT, "b").state) == "NEW"
    assert not db.read_sync(lambda session: list_events(session, KIND, PROJECT, "a"))


def test_more_ids_than_a_statement_takes_are_found(db: Database) -> None:
    saves = [Saved(f"n{number}", "NEW", {}, fingerprint="x") for number in range(1100)]
    db.run_sync(lambda session: save_many(session, KIND, PROJECT, saves, [], NOW))
    ids = [one.id for one in saves]
    assert len(db.read_sync(lambda session: find_many(session, KIND, PROJECT, ids))) == 1100


def test_taking_no_revision_takes_none(db: Database) -> None:
    def take(session: Session) -> tuple[list[int], int]:
        return list(take_revisions(session, 0)), current_revision(session)

    assert db.run_sync(take) == ([], 0)
