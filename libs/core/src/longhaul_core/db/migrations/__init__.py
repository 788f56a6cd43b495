"""The schema's versions, applied by Alembic from the program itself; there is no alembic.ini.

A release that goes back, and the old replicas of a rolling upgrade, find a schema that is newer than they are. Versions
that only add leave a mark that says so, and the older program goes on; it refuses a schema without one.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, delete, insert, inspect, select, text

from longhaul_core.db.engines import writing
from longhaul_core.db.schema import counters
from longhaul_core.errors import FailedPrecondition

VERSIONS = ("0001", "0002", "0003")
"""All versions, oldest first; the test of the schema compares them with the scripts."""

SERVES_FROM = "0001"
"""The oldest program that this schema serves. A version that takes something away raises it to the first program that
does without; that program must have been released before."""

_SERVES_FROM_COUNTER = "schema serves from"

_MIGRATION_LOCK = 0x6C6F6E67
"""Key of PostgreSQL's advisory lock, so that one process at a time migrates."""


def migrate(engine: Engine) -> None:
    """Bring the schema to the newest version; one process at a time, all in one transaction.

    Raises:
        FailedPrecondition: The schema is of a newer program.
    """
    with writing(engine).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        if not is_current(connection):
            _upgrade(connection)


def is_current(connection: Connection) -> bool:
    """Tell whether the schema has all that this program needs; False where it is older or missing.

    Raises:
        FailedPrecondition: The schema is of a newer program, and does not serve this one.
    """
    if not inspect(connection).has_table("alembic_version"):
        return False
    version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    if version is not None and version not in VERSIONS:
        if _serves(connection):
            return True
        raise FailedPrecondition(
            f"the database has schema version {version}, newer than this program ({VERSIONS[-1]})",
            reason="SCHEMA_NEWER",
            metadata={"version": str(version)},
            action="run the newer program again",
        )
    return version == VERSIONS[-1]


def _upgrade(connection: Connection) -> None:
    from alembic import command  # costs 0.2 s and is needed once a schema version
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    mark = {"name": _SERVES_FROM_COUNTER, "value": int(SERVES_FROM)}
    connection.execute(delete(counters).where(counters.c.name == _SERVES_FROM_COUNTER))
    connection.execute(insert(counters), mark)


def _serves(connection: Connection) -> bool:
    """Whether a schema that this program does not know says that it serves it nevertheless."""
    mark = select(counters.c.value).where(counters.c.name == _SERVES_FROM_COUNTER)
    oldest = connection.execute(mark).scalar_one_or_none()
    return oldest is not None and oldest <= int(VERSIONS[-1])
