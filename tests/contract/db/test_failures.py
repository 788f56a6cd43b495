from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from longhaul_core.db import Database, EventRow, events
from longhaul_core.errors import FailedPrecondition, InvalidArgument, ResourceExhausted, Unavailable
from sqlalchemy.orm import Session

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
