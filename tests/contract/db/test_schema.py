from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from longhaul_core.db import Database, migrations
from longhaul_core.db.engines import parse_database_url
from longhaul_core.db.schema import metadata
from longhaul_core.errors import FailedPrecondition
from sqlalchemy import create_engine, text


def test_versions_are_those_of_the_scripts() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    scripts = ScriptDirectory.from_config(config)
    assert tuple(script.revision for script in reversed(list(scripts.walk_revisions()))) == migrations.VERSIONS


def test_migrated_database_has_the_tables_of_the_schema(database_url: str) -> None:
    Database.open(database_url, migrated=True).close()
    engine = create_engine(parse_database_url(database_url))
    with engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), metadata)
    engine.dispose()
    assert found == []


def test_several_processes_migrating_at_once_all_succeed(database_url: str) -> None:
    with ThreadPoolExecutor(4) as threads:
        opened = list(threads.map(lambda _: Database.open(database_url, migrated=True), range(4)))
    for database in opened:
        database.close()
    assert len(opened) == 4


def test_schema_of_a_newer_program_that_does_not_serve_this_one_is_refused(database_url: str) -> None:
    make_newer(database_url, serves_from=9999)
    with pytest.raises(FailedPrecondition) as caught:
        Database.open(database_url, migrated=True)
    assert caught.value.reason == "SCHEMA_NEWER"


@pytest.mark.parametrize("migrated", [True, False])
def test_schema_of_a_newer_program_that_only_added_is_used_and_left_as_it_is(database_url: str, migrated: bool) -> None:
    make_newer(database_url, serves_from=int(migrations.VERSIONS[-1]))
    database = Database.open(database_url, migrated=migrated)
    version = database.read_sync(lambda session: session.execute(text("SELECT version_num FROM alembic_version")).all())
    database.close()
    assert [tuple(row) for row in version] == [("9999",)]


def make_newer(url: str, *, serves_from: int) -> None:
    """Make the schema that of a later release."""
    Database.open(url, migrated=True).close()
    engine = create_engine(parse_database_url(url))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        mark = text("UPDATE counters SET value = :oldest WHERE name = 'schema serves from'")
        assert connection.execute(mark, {"oldest": serves_from}).rowcount == 1
    engine.dispose()


@pytest.mark.needs_program("postgres")
def test_postgres_without_schema_is_refused_until_migrated(postgres_url: str) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        Database.open(postgres_url)
    assert caught.value.reason == "SCHEMA_BEHIND"
    assert "python -m longhaul_core.db.migrate" in caught.value.action
    done = subprocess.run(
        [sys.executable, "-m", "longhaul_core.db.migrate"],
        env={"LONGHAUL_DATABASE_URL": postgres_url, "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    Database.open(postgres_url).close()
