"""A large catalogue answers without going through all its rows; `make bench-checkpoint` measures how fast."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from longhaul.checkpoint.v1 import checkpoint_pb2 as pb
from longhaul.checkpoint.v1.checkpoint_pb2_grpc import CheckpointServiceStub
from longhaul_checkpoint.adapters.records import CHECKPOINT_KIND
from longhaul_checkpoint.app import build
from longhaul_checkpoint.settings import CheckpointSettings
from longhaul_core.rpc.client import connect
from longhaul_core.rpc.server import running_service
from longhaul_core.rpc.service import ServiceContext, ServiceDefinition
from sqlalchemy import Engine, event

from tests.integration.checkpoint.support import RUN, Client

ROWS = 20_000
LIMIT = 10_000
"""Instructions of SQLite's virtual machine a statement; a page takes 2,600, and a row that is passed over about 10."""


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


@contextmanager
def _recorded(texts: set[str]) -> Iterator[None]:
    """Add the statements, with their values, of all connections that are opened within."""

    def watch(connection: Any, record: Any) -> None:
        connection.set_trace_callback(texts.add)

    event.listen(Engine, "connect", watch)
    try:
        yield
    finally:
        event.remove(Engine, "connect", watch)


def _instructions(tmp_path: Path, text: str) -> int:
    """What one statement costs, carried out by itself."""
    spent = [0]

    def look() -> None:
        spent[0] += 100

    with closing(sqlite3.connect(tmp_path / "checkpoint" / "checkpoint.sqlite3")) as db:
        db.set_progress_handler(look, 100)
        db.execute(text).fetchall()
    return spent[0]


async def _calls_alone(context: ServiceContext) -> ServiceDefinition:
    """The service without its loops, so that all statements are those of calls."""
    return replace(await build(context), background=())


async def test_list_and_latest_of_many_checkpoints_do_not_go_through_the_rows(serve, store, tmp_path):
    async with serve() as client:
        await client.save(ROWS)
        await client.retain(keep_last=1, keep_every_steps=1)
    _fill(tmp_path, ROWS)
    texts: set[str] = set()
    settings = CheckpointSettings(data_dir=tmp_path, listen_address="127.0.0.1:0", metrics_address="")
    with _recorded(texts):
        async with running_service(settings, _calls_alone) as address, connect(address) as channel:
            client = Client(CheckpointServiceStub(channel), store)
            by_run = pb.ListCheckpointsRequest(parent="projects/demo", training_run=RUN, page_size=50)
            by_project = pb.ListCheckpointsRequest(parent="projects/demo", page_size=50)
            latest = pb.GetLatestCheckpointRequest(training_run=RUN)
            texts.clear()
            page = await client.call("ListCheckpoints", by_run)
            assert [checkpoint.step for checkpoint in page.checkpoints] == list(range(ROWS, ROWS - 50, -1))
            assert len((await client.call("ListCheckpoints", by_project)).checkpoints) == 50
            assert (await client.call("GetLatestCheckpoint", latest)).step == ROWS
            by_run.page_token = page.next_page_token
            assert (await client.call("ListCheckpoints", by_run)).checkpoints[0].step == ROWS - 50
            asked = [text for text in texts if text.startswith("SELECT") and "FROM resources" in text]
    assert len(asked) >= 5, asked
    spent = {text: _instructions(tmp_path, text) for text in asked}
    assert max(spent.values()) < LIMIT, spent
