"""The tables of all services. A change here needs a migration; a test compares the two."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """A time in UTC, with time zone on both sides (SQLite keeps none)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn into UTC; a time without zone is a defect of the caller."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("time without time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class StorableText(TypeDecorator[str]):
    """Text that both databases take: NUL and lone surrogates, which logs and file names may hold, become U+FFFD."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Replace what cannot be stored."""
        return None if value is None else _UNSTORABLE.sub("\ufffd", value)


_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

BigId = BigInteger().with_variant(Integer, "sqlite")
"""SQLite generates ids for INTEGER alone."""

metadata = MetaData()

counters = Table(
    "counters",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

resources = Table(
    "resources",
    metadata,
    Column("kind", String(63), primary_key=True),
    Column("project", String(63), primary_key=True),
    Column("id", String(255), primary_key=True),
    Column("uid", String(32), nullable=False, unique=True),
    Column("revision", BigInteger, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("request_id", String(255), nullable=False),
    Column("state", String(63), nullable=False),
    Column("spec", JSON, nullable=False),
    Column("status", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Index("resources_by_revision", "kind", "revision"),
    Index("resources_by_creation", "kind", "project", "created_at", "id"),
    Index("resources_by_state", "kind", "state", "project", "id"),
    Index("resources_by_request", "kind", "project", "request_id"),
)

events = Table(
    "events",
    metadata,
    Column("revision", BigId, primary_key=True, autoincrement=False),
    Column("kind", String(63), nullable=False),
    Column("project", String(63), nullable=False),
    Column("id", String(255), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("type", String(63), nullable=False),
    Column("cause", String(127), nullable=False),
    Column("message", StorableText, nullable=False),
    Column("data", JSON, nullable=False),
    Index("events_by_resource", "kind", "project", "id", "revision"),
)

work_items = Table(
    "work_items",
    metadata,
    Column("item_id", BigId, primary_key=True, autoincrement=True),
    Column("job", String(255), nullable=False),
    Column("phase", String(63), nullable=False),
    Column("position", Integer, nullable=False),
    Column("payload", JSON, nullable=False),
    Column("state", String(15), nullable=False),
    Column("owner", String(255), nullable=False),
    Column("term", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("available_at", UtcDateTime, nullable=False),
    Column("result", JSON(none_as_null=True), nullable=True),
    Column("error", StorableText, nullable=False),
    UniqueConstraint("job", "phase", "position", name="work_items_position"),
    Index("work_items_by_state", "state", "item_id"),
    sqlite_autoincrement=True,  # an id that was used once never names another item
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(127), primary_key=True),
    Column("term", BigInteger, nullable=False),
    Column("holder", String(255), nullable=False),
    Column("address", String(255), nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)

step_metrics = Table(
    "step_metrics",
    metadata,
    Column("run_uid", String(32), primary_key=True),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("epoch", Integer, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("replayed", Boolean, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("values", JSON, nullable=False),
    Index("step_metrics_by_sequence", "run_uid", "sequence"),
)
