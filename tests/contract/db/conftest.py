"""The same database suite on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from longhaul_core.db import Database

OpenDatabase = Callable[[], Database]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs_program("postgres"))])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'folder' / 'test.sqlite3'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def open_database(database_url: str) -> Iterator[OpenDatabase]:
    """Opens handles on one database, as several replicas would."""
    opened: list[Database] = []

    def open_one() -> Database:
        opened.append(Database.open(database_url, migrated=True))
        return opened[-1]

    yield open_one
    for database in opened:
        database.close()


@pytest.fixture
def db(open_database: OpenDatabase) -> Database:
    """One handle."""
    return open_database()
