from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from longhaul_core.db import Database, EventRow, events, leases
from longhaul_core.db.session import Session
from longhaul_core.errors import FailedPrecondition, InvalidArgument, ResourceExhausted, Unavailable
from sqlalchemy import text

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def append(session: Session, number: int, size: int = 1) -> EventRow:
    return events.append(session, "run", "p", "r", type="T", message="x" * size, data={"n": number}, now=NOW)


def fill(path: Path, number: int) -> None:
    database = Database.open(f"sqlite:///{path}")
    for index in range(number):
        database.run_sync(lambda session, index=index: append(session, index, 2000))
    database.close()


def test_open_damaged_file_names_it_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "ingest.sqlite3"
    fill(path, 50)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\x5a" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(FailedPrecondition) as caught:
        Database.open(f"sqlite:///{path}")
    assert caught.value.reason == "DATABASE_DAMAGED"
    assert str(path) in caught.value.message
    assert f"move {path} away" in caught.value.action


def test_open_file_of_another_kind_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "ingest.sqlite3"
    path.write_bytes(b"this was never a database, it is a note of some length " * 100)
    with pytest.raises(FailedPrecondition) as caught:
        Database.open(f"sqlite:///{path}")
    assert caught.value.reason == "DATABASE_DAMAGED"


def test_open_truncated_file_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "ingest.sqlite3"
    fill(path, 50)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(FailedPrecondition) as caught:
        Database.open(f"sqlite:///{path}")
    assert caught.value.reason == "DATABASE_DAMAGED"


def test_open_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FailedPrecondition) as caught:
        Database.open(f"sqlite:///{tmp_path / 'file' / 'x.sqlite3'}")
    assert caught.value.reason == "DATABASE_UNUSABLE"
    assert str(tmp_path / "file") in caught.value.message


@pytest.mark.parametrize("url", ["mysql://host/db", "sqlite://", "nonsense", "postgresql://host"])
def test_open_unsupported_url_shows_the_forms(url: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Database.open(url)
    assert caught.value.reason == "DATABASE_URL_INVALID"
    assert "sqlite:///" in caught.value.action


def test_open_postgres_that_is_away_is_unavailable_without_password(free_port: int) -> None:
    with pytest.raises(Unavailable) as caught:
        Database.open(f"postgresql://user:secret-word@127.0.0.1:{free_port}/db")
    assert caught.value.reason == "DATABASE_UNAVAILABLE"
    assert "secret-word" not in str(caught.value)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own, of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_disk_full_keeps_what_was_committed_and_goes_on_when_freed(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 400_000)
    database = Database.open(f"sqlite:///{small_disk / 'db.sqlite3'}")
    committed: list[int] = []

    def append_for_ever() -> None:
        while True:
            event = database.run_sync(lambda session: append(session, len(committed), 10_000))
            committed.append(event.revision)

    with pytest.raises(ResourceExhausted) as caught:
        append_for_ever()
    assert committed
    assert caught.value.reason == "DISK_FULL"
    assert str(small_disk) in caught.value.message
    ballast.unlink()
    database.run_sync(lambda session: append(session, len(committed)))
    found = database.read_sync(lambda session: events.list_events(session, "run", "p", "r"))
    database.close()
    assert [event.data["n"] for event in found] == list(range(len(committed) + 1))


WRITER = """
import sys
from datetime import UTC, datetime
from longhaul_core.db import Database, events
database = Database.open(sys.argv[1])
for number in range(1_000_000):
    database.run_sync(
        lambda session: events.append(session, "run", "p", "r", type="T", data={"n": number}, now=datetime.now(UTC))
    )
    print(number, flush=True)
"""


def test_killed_writer_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'db.sqlite3'}"
    process = subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(50):
        process.stdout.readline()
    process.kill()
    acknowledged = 50 + len(process.stdout.read().split("\n")) - 1
    process.wait()
    database = Database.open(url)
    found = database.read_sync(lambda session: events.list_events(session, "run", "p", "r", limit=1_000_000))
    database.close()
    assert [event.data["n"] for event in found] == list(range(len(found)))
    assert acknowledged <= len(found) <= acknowledged + 1


@pytest.mark.needs_program("postgres")
def test_postgres_connection_lost_in_a_transaction_writes_nothing_and_the_next_works(postgres_url: str) -> None:
    database = Database.open(postgres_url, migrated=True)

    def cut_off(session: Session) -> None:
        append(session, 1)
        backend = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with psycopg.connect(postgres_url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", (backend,))
        append(session, 2)

    with pytest.raises(Unavailable) as caught:
        database.run_sync(cut_off)
    assert caught.value.reason == "DATABASE_UNAVAILABLE"
    database.run_sync(lambda session: append(session, 3))
    found = database.read_sync(lambda session: events.list_events(session, "run", "p", "r"))
    database.close()
    assert [event.data["n"] for event in found] == [3]


@pytest.mark.needs_program("postgres")
def test_postgres_deadlock_is_run_again_until_both_succeed(postgres_url: str) -> None:
    database = Database.open(postgres_url, migrated=True)
    both_hold_one = threading.Barrier(2, timeout=60)
    attempts: list[str] = []

    def take(first: str, second: str) -> None:
        def transact(session: Session) -> None:
            leases.acquire(session, first, "me", "", 60)
            attempts.append(first)
            if len(attempts) <= 2:
                both_hold_one.wait()
            leases.acquire(session, second, "me", "", 60)

        database.run_sync(transact)

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(take, "a", "b"), threads.submit(take, "b", "a")]:
            done.result(30)
    database.close()
    assert len(attempts) == 3, "no deadlock happened"
