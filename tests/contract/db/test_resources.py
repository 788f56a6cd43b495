from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from longhaul_core.db import Database, ResourceRow, events, resources
from longhaul_core.db.session import Session
from longhaul_core.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def make(db: Database, id: str = "a", **changed: Any) -> tuple[ResourceRow, bool]:
    values: dict[str, Any] = {
        "kind": "dataset",
        "project": "demo",
        "id": id,
        "spec": {"model": {"layers": 4}, "seeds": [1, 2]},
        "state": "QUEUED",
        "status": {},
        "fingerprint": "f1",
        "request_id": "",
        "now": NOW,
        **changed,
    }
    return db.run_sync(lambda session: resources.create(session, **values))


def get(db: Database, id: str = "a") -> ResourceRow:
    return db.read_sync(lambda session: resources.get(session, "dataset", "demo", id))


def test_create_new_stores_all_fields(db: Database) -> None:
    text = "käse \U0001f9c0 \\ \" ' \n"
    made, created = make(db, spec={"text": text, "number": 0.1, "big": 2**60, "none": None}, status={"done": 3})
    assert created
    assert get(db) == made
    assert made.spec == {"text": text, "number": 0.1, "big": 2**60, "none": None}
    assert made.created_at == made.updated_at == NOW
    assert made.created_at.tzinfo is UTC
    assert made.revision > 0


def test_create_same_fingerprint_returns_existing(db: Database) -> None:
    made, _ = make(db)
    again, created = make(db, now=NOW + timedelta(hours=1))
    assert not created
    assert again == made


def test_create_other_fingerprint_names_each_difference(db: Database) -> None:
    make(db)
    with pytest.raises(AlreadyExists) as caught:
        make(db, fingerprint="f2", spec={"model": {"layers": 6}, "seeds": [1, 3], "new": "x"})
    assert caught.value.reason == "SPEC_DIFFERS"
    assert caught.value.metadata == {"model.layers": "4 -> 6", "seeds[1]": "2 -> 3", "new": '(absent) -> "x"'}
    assert "model.layers: 4 -> 6" in caught.value.message


def test_create_same_request_id_returns_first_answer(db: Database) -> None:
    made, _ = make(db, request_id="r1")
    again, created = make(db, request_id="r1", fingerprint="f2")
    assert (again, created) == (made, False)


def test_create_request_id_of_another_request_is_refused(db: Database) -> None:
    make(db, request_id="r1")
    with pytest.raises(InvalidArgument) as caught:
        make(db, "b", request_id="r1", fingerprint="f2")
    assert caught.value.reason == "REQUEST_ID_REUSED"


def test_get_missing_names_kind_and_id(db: Database) -> None:
    with pytest.raises(NotFound) as caught:
        get(db, "nothing")
    assert caught.value.reason == "DATASET_NOT_FOUND"
    assert "'nothing'" in caught.value.message


def test_update_changes_only_what_is_given_and_raises_revision(db: Database) -> None:
    made, _ = make(db)
    later = NOW + timedelta(minutes=1)
    changed = db.run_sync(lambda session: resources.update(session, made, state="RUNNING", now=later))
    assert (changed.state, changed.spec, changed.status) == ("RUNNING", made.spec, made.status)
    assert changed.revision > made.revision
    assert (changed.created_at, changed.updated_at) == (NOW, later)
    assert get(db) == changed


def test_update_of_stale_row_is_aborted_and_changes_nothing(db: Database) -> None:
    made, _ = make(db)
    newer = db.run_sync(lambda session: resources.update(session, made, state="RUNNING", now=NOW))
    with pytest.raises(Aborted) as caught:
        db.run_sync(lambda session: resources.update(session, made, state="FAILED", now=NOW))
    assert caught.value.reason == "REVISION_CONFLICT"
    assert get(db) == newer


def test_update_returns_all_columns_as_they_are_stored(db: Database) -> None:
    made, _ = make(db, status={"done": 3})
    later = NOW + timedelta(seconds=1)
    changed = db.run_sync(lambda s: resources.update(s, made, status={"pair": (1, 2)}, now=later))
    assert changed == get(db)
    assert changed.status == {"pair": [1, 2]}
    by_revision = db.run_sync(
        lambda s: resources.update(s, made, state="DONE", expected_revision=changed.revision, now=later)
    )
    assert by_revision == get(db)
    assert by_revision.status == {"pair": [1, 2]}


def test_update_of_recreated_resource_is_aborted(db: Database) -> None:
    first, _ = make(db)
    db.run_sync(lambda session: resources.delete(session, first, now=NOW))
    second, created = make(db, fingerprint="f2")
    assert created
    assert second.uid != first.uid
    with pytest.raises(Aborted):
        db.run_sync(
            lambda session: resources.update(session, first, state="FAILED", expected_revision=second.revision, now=NOW)
        )


def test_failed_transaction_leaves_nothing(db: Database) -> None:
    def broken(session: Session) -> None:
        resources.create(session, kind="dataset", project="demo", id="a", spec={}, state="S", fingerprint="f", now=NOW)
        raise FailedPrecondition("no")

    with pytest.raises(FailedPrecondition):
        db.run_sync(broken)
    assert db.read_sync(lambda session: resources.find(session, "dataset", "demo", "a")) is None


def test_read_transaction_refuses_to_write(db: Database) -> None:
    made, _ = make(db)
    with pytest.raises(Exception, match=r"(?i)read-?only"):
        db.read_sync(lambda session: resources.update(session, made, state="FAILED", now=NOW))
    assert get(db) == made


def test_deleted_resource_is_gone_and_its_id_is_free(db: Database) -> None:
    made, _ = make(db, request_id="r1")
    db.run_sync(lambda session: resources.delete(session, made, now=NOW))
    with pytest.raises(NotFound):
        get(db)
    assert db.read_sync(lambda session: resources.list_page(session, "dataset", "demo", page_size=5)).rows == ()
    again, created = make(db, request_id="r1")
    assert created
    assert again.revision > made.revision


def test_list_pages_show_each_resource_once_newest_first(db: Database) -> None:
    for number in range(7):
        make(db, f"d{number}", now=NOW + timedelta(seconds=number // 2))  # pairs share their time
    make(db, "other", project="second")
    seen: list[str] = []
    token = ""
    while True:
        page = db.read_sync(
            lambda session, token=token: resources.list_page(session, "dataset", "demo", page_size=3, page_token=token)
        )
        seen += [row.id for row in page.rows]
        token = page.next_page_token
        if not token:
            break
    assert sorted(seen) == [f"d{number}" for number in range(7)]
    assert seen[0] == "d6"
    assert seen.index("d4") < seen.index("d2")


def test_list_filters_by_state_and_over_all_projects(db: Database) -> None:
    make(db, "a", state="QUEUED")
    make(db, "b", state="RUNNING")
    make(db, "c", state="RUNNING", project="second")

    def ids(project: str, states: list[str] | None) -> set[str]:
        page = db.read_sync(
            lambda session: resources.list_page(session, "dataset", project, page_size=10, states=states)
        )
        return {row.id for row in page.rows}

    assert ids("demo", ["RUNNING"]) == {"b"}
    assert ids("-", ["RUNNING"]) == {"b", "c"}
    assert ids("-", None) == {"a", "b", "c"}
    everything = db.read_sync(lambda session: resources.list_all(session, "dataset"))
    assert {row.id for row in everything} == {"a", "b", "c"}
    assert db.read_sync(lambda session: resources.count(session, "dataset", "demo")) == 2


def test_list_token_of_another_query_is_refused(db: Database) -> None:
    make(db, "a")
    make(db, "b")
    page = db.read_sync(lambda session: resources.list_page(session, "dataset", "demo", page_size=1))
    with pytest.raises(InvalidArgument) as caught:
        db.read_sync(
            lambda session: resources.list_page(session, "dataset", "-", page_size=1, page_token=page.next_page_token)
        )
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


async def test_concurrent_creates_of_one_id_make_one(open_database: Any) -> None:
    import asyncio

    replicas = [open_database(), open_database()]

    def create(session: Session) -> tuple[ResourceRow, bool]:
        return resources.create(
            session, kind="run", project="demo", id="x", spec={}, state="S", fingerprint="f", now=NOW
        )

    answers = await asyncio.gather(*(replicas[number % 2].run(create) for number in range(20)))
    assert sum(created for _, created in answers) == 1
    assert len({row.uid for row, _ in answers}) == 1


def test_numbers_that_json_lacks_are_stored_as_null(db: Database) -> None:
    made, _ = make(db, spec={"loss": float("nan"), "list": [1.5, float("inf")], "x": 0.1 + 0.2})
    assert get(db).spec == {"loss": None, "list": [1.5, None], "x": 0.1 + 0.2}
    assert get(db).revision == made.revision


def test_json_keeps_every_number_and_half_a_surrogate_pair(db: Database) -> None:
    spec = {"big": 10**30, "small": 5e-324, "large": 1.7976931348623157e308, "third": 1 / 3, "cut": "\ud83e"}
    made, _ = make(db, spec=spec)
    assert get(db).spec == spec == made.spec


def test_text_that_databases_refuse_is_stored_replaced(db: Database) -> None:
    event = db.run_sync(
        lambda session: events.append(
            session, "run", "demo", "a", type="LOG", message="a\x00b\udc80ä\n", data={"m": "a\x00b\udc80"}, now=NOW
        )
    )
    (stored,) = db.read_sync(lambda session: events.list_events(session, "run", "demo", "a"))
    assert stored.message == "a\ufffdb\ufffdä\n"
    assert stored.data == event.data
