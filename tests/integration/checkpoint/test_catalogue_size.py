"""A catalogue of 100,000 checkpoints answers at once."""

import sqlite3
import time
from contextlib import closing

from longhaul.checkpoint.v1 import checkpoint_pb2 as pb
from longhaul_checkpoint.adapters.records import CHECKPOINT_KIND

from tests.integration.checkpoint.support import RUN

ROWS = 100_000
LIMIT_SECONDS = 0.010


COPY = """
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < :rows),
template AS (SELECT * FROM resources WHERE kind = :kind LIMIT 1)
INSERT INTO resources (kind, project, id, uid, revision, fingerprint, request_id, state, spec, status,
                       created_at, updated_at, deleted)
SELECT kind, project, printf('r1-step-%08d-e1', n), printf('%032x', n), n + 50, fingerprint, request_id, state,
       json_set(spec, '$.step', n),
       json_object('commitment', json_extract(json_set(status, '$.commitment.previous', ''), '$.commitment')),
       strftime('%Y-%m-%d %H:%M:%f', '2025-01-01', '+' || n || ' minutes') || '000', updated_at, deleted
FROM template, numbers
"""


def _fill(tmp_path, rows: int) -> None:
    """Copy the one committed checkpoint, step by step, as a run of many years would have left them."""
    with closing(sqlite3.connect(tmp_path / "checkpoint" / "checkpoint.sqlite3")) as db, db:
        db.execute(COPY, {"rows": rows, "kind": CHECKPOINT_KIND})
        db.execute("UPDATE counters SET value = ? WHERE name = 'revision'", (rows + 100,))


async def test_list_and_latest_of_100000_checkpoints_take_less_than_10_ms(serve, tmp_path):
    async with serve() as client:
        await client.save(ROWS)
        await client.retain(keep_last=1, keep_every_steps=1)
    _fill(tmp_path, ROWS)
    async with serve() as client:
        by_run = pb.ListCheckpointsRequest(parent="projects/demo", training_run=RUN, page_size=50)
        by_project = pb.ListCheckpointsRequest(parent="projects/demo", page_size=50)
        latest = pb.GetLatestCheckpointRequest(training_run=RUN)
        page = await client.call("ListCheckpoints", by_run)
        assert [checkpoint.step for checkpoint in page.checkpoints] == list(range(ROWS, ROWS - 50, -1))
        assert (await client.call("GetLatestCheckpoint", latest)).step == ROWS
        for method, request in (
            ("ListCheckpoints", by_run),
            ("ListCheckpoints", by_project),
            ("GetLatestCheckpoint", latest),
        ):
            assert await _fastest(client, method, request) < LIMIT_SECONDS, method
        by_run.page_token = page.next_page_token
        assert (await client.call("ListCheckpoints", by_run)).checkpoints[0].step == ROWS - 50


async def _fastest(client, method, request) -> float:
    """Seconds of the fastest of many calls: what the call takes, whatever else the machine does."""
    fastest = float("inf")
    for _ in range(100):
        started = time.perf_counter()
        await client.call(method, request)
        fastest = min(fastest, time.perf_counter() - started)
    return fastest
