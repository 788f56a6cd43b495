"""The schema's versions, applied by Alembic from the program itself; there is no alembic.ini."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from longhaul_core.db.engines import writing
from longhaul_core.errors import FailedPrecondition

VERSIONS = ("0001", "0002")
"""All versions, oldest first; the test of the schema compares them with the scripts."""

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
    """Tell whether the schema is the one that this program needs; False where it is older or missing.

    Raises:
        FailedPrecondition: The schema is of a newer program.
    """
    if not inspect(connection).has_table("alembic_version"):
        return False
    version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    if version is not None and version not in VERSIONS:
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
