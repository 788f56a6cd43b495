from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from longhaul_core.db import Claim, Database, QueueCounts, queue
from longhaul_core.errors import Aborted

JOB, PHASE = "ingest/demo/web", "extract"
FAR = datetime(2100, 1, 1, tzinfo=UTC)


def enqueue(db: Database, number: int, job: str = JOB, phase: str = PHASE) -> int:
    return db.run_sync(lambda session: queue.enqueue(session, job, phase, [{"n": index} for index in range(number)]))


def claim(db: Database, owner: str = "one", **filters: Any) -> Claim | None:
    return db.run_sync(lambda session: queue.claim(session, owner=owner, lease_seconds=60, **filters))


def must_claim(db: Database, owner: str = "one", **filters: Any) -> Claim:
    claimed = claim(db, owner, **filters)
    assert claimed is not None
    return claimed


def counts(db: Database) -> QueueCounts:
    return db.read_sync(lambda session: queue.counts(session, JOB, PHASE))


def test_enqueue_twice_adds_each_item_once(db: Database) -> None:
    assert enqueue(db, 1203) == 1203
    done = must_claim(db)
    db.run_sync(lambda session: queue.complete(session, done, {"rows": 1}))
    assert enqueue(db, 1204) == 1
    assert counts(db) == QueueCounts(queued=1203, done=1)


def test_enqueue_nothing_is_finished_at_once(db: Database) -> None:
    assert enqueue(db, 0) == 0
    assert counts(db).finished


def test_claim_gives_items_in_order_then_none(db: Database) -> None:
    enqueue(db, 2)
    first, second = must_claim(db), must_claim(db, "two")
    assert [(item.index, item.payload, item.term, item.attempts) for item in (first, second)] == [
        (0, {"n": 0}, 1, 1),
        (1, {"n": 1}, 1, 1),
    ]
    assert claim(db) is None
    assert counts(db) == QueueCounts(claimed=2)


def test_claim_filters_by_job_prefix_and_phase(db: Database) -> None:
    enqueue(db, 1, "corpus/100%_x", "dedup")
    enqueue(db, 1)
    assert claim(db, job_prefix="corpus/100%", phases=["tokenise"]) is None
    assert claim(db, job_prefix="corpus/___%") is None
    assert must_claim(db, job_prefix="corpus/100%", phases=["dedup"]).job == "corpus/100%_x"
    assert must_claim(db, job_prefix="ingest/").job == JOB


def test_results_come_in_the_order_of_positions(db: Database) -> None:
    enqueue(db, 3)
    claims = [must_claim(db) for _ in range(3)]
    for item in reversed(claims):
        db.run_sync(lambda session, item=item: queue.complete(session, item, {"square": item.index**2}))
    found = db.read_sync(lambda session: queue.results(session, JOB, PHASE))
    assert found == [{"square": 0}, {"square": 1}, {"square": 4}]
    assert counts(db).finished


def test_expired_claim_is_taken_over_and_cannot_complete(db: Database) -> None:
    enqueue(db, 1)
    stale = must_claim(db)
    assert claim(db, "two") is None
    fresh = must_claim(db, "two", now=stale.expires_at + timedelta(seconds=1))
    assert (fresh.item_id, fresh.term, fresh.attempts) == (stale.item_id, stale.term + 1, 2)
    for act in (
        lambda session: queue.complete(session, stale, {"by": "stale"}),
        lambda session: queue.fail(session, stale, "x", retry=False),
        lambda session: queue.renew(session, stale, 60),
        lambda session: queue.release(session, stale),
    ):
        with pytest.raises(Aborted) as caught:
            db.run_sync(act)
        assert caught.value.reason == "STALE_TERM"
    db.run_sync(lambda session: queue.complete(session, fresh, {"by": "fresh"}))
    assert db.read_sync(lambda session: queue.results(session, JOB, PHASE)) == [{"by": "fresh"}]


def test_complete_twice_counts_once(db: Database) -> None:
    enqueue(db, 1)
    item = must_claim(db)
    db.run_sync(lambda session: queue.complete(session, item, {"n": 1}))
    with pytest.raises(Aborted):
        db.run_sync(lambda session: queue.complete(session, item, {"n": 2}))
    assert db.read_sync(lambda session: queue.results(session, JOB, PHASE)) == [{"n": 1}]


def test_expired_claim_that_nobody_took_can_complete(db: Database) -> None:
    enqueue(db, 1)
    item = db.run_sync(lambda session: queue.claim(session, owner="one", lease_seconds=-1))
    assert item is not None
    db.run_sync(lambda session: queue.complete(session, item, {}))
    assert counts(db) == QueueCounts(done=1)


def test_renewed_claim_outlives_its_first_lease(db: Database) -> None:
    enqueue(db, 1)
    item = must_claim(db)
    renewed = db.run_sync(lambda session: queue.renew(session, item, 3600))
    assert renewed.expires_at > item.expires_at
    assert claim(db, "two", now=item.expires_at + timedelta(seconds=1)) is None
    db.run_sync(lambda session: queue.complete(session, renewed, {}))


def test_failed_item_waits_for_its_delay_then_is_tried_again(db: Database) -> None:
    enqueue(db, 1)
    item = must_claim(db)
    db.run_sync(lambda session: queue.fail(session, item, "boom", retry=True, delay_seconds=600))
    assert claim(db) is None
    assert must_claim(db, now=FAR).attempts == 2


def test_item_given_up_is_listed_with_its_error(db: Database) -> None:
    enqueue(db, 2)
    item = must_claim(db)
    db.run_sync(lambda session: queue.fail(session, item, "cannot read", retry=False))
    failed = db.read_sync(lambda session: queue.failures(session, JOB, PHASE))
    assert [(one.index, one.payload, one.attempts, one.error) for one in failed] == [(0, {"n": 0}, 1, "cannot read")]
    assert counts(db) == QueueCounts(queued=1, failed=1)


def test_item_given_up_is_queued_again_with_another_payload(db: Database) -> None:
    enqueue(db, 2)
    item = must_claim(db)
    db.run_sync(lambda session: queue.fail(session, item, "boom", retry=True))
    again = must_claim(db, now=FAR)
    assert (item.error, again.error) == ("", "boom")
    db.run_sync(lambda session: queue.fail(session, again, "boom", retry=False))
    db.run_sync(lambda session: queue.requeue(session, JOB, PHASE, 0, {"n": 0, "lost": True}))
    db.run_sync(lambda session: queue.requeue(session, JOB, PHASE, 1, {"n": "of no item that was given up"}))
    fresh, other = must_claim(db), must_claim(db)
    assert (fresh.payload, fresh.attempts, fresh.error) == ({"n": 0, "lost": True}, 1, "")
    assert other.payload == {"n": 1}


def test_released_item_is_free_and_its_attempt_uncounted(db: Database) -> None:
    enqueue(db, 1)
    item = must_claim(db)
    db.run_sync(lambda session: queue.release(session, item))
    again = must_claim(db, "two")
    assert (again.term, again.attempts) == (2, 1)


def test_discarded_job_makes_claims_stale_even_if_queued_again(db: Database) -> None:
    enqueue(db, 2)
    item = must_claim(db)
    assert db.run_sync(lambda session: queue.discard(session, JOB)) == 2
    enqueue(db, 2)
    must_claim(db)
    with pytest.raises(Aborted):
        db.run_sync(lambda session: queue.complete(session, item, {}))


def test_replicas_racing_for_items_get_each_once(open_database: Any) -> None:
    replicas = [open_database(), open_database()]
    total = 80
    enqueue(replicas[0], total)

    def work(number: int) -> list[int]:
        db, taken = replicas[number % 2], []
        while (item := claim(db, f"worker-{number}")) is not None:
            db.run_sync(lambda session, item=item: queue.complete(session, item, {"n": item.index}))
            taken.append(item.index)
        return taken

    with ThreadPoolExecutor(4) as threads:
        taken = Counter(index for part in threads.map(work, range(4)) for index in part)
    assert taken == Counter(range(total))
    assert counts(replicas[1]) == QueueCounts(done=total)
