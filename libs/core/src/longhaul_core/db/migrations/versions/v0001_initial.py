"""Resources, events, counters, work items and leases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from longhaul_core.db.schema import BigId, UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables and the revision counter."""
    counters = op.create_table(
        "counters",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(counters, [{"name": "revision", "value": 0}])
    _create_resources()
    _create_events()
    _create_work_items()
    op.create_table(
        "leases",
        sa.Column("name", sa.String(127), primary_key=True),
        sa.Column("term", sa.BigInteger, nullable=False),
        sa.Column("holder", sa.String(255), nullable=False),
        sa.Column("address", sa.String(255), nullable=False),
        sa.Column("expires_at", UtcDateTime, nullable=False),
    )


def _create_resources() -> None:
    op.create_table(
        "resources",
        sa.Column("kind", sa.String(63), primary_key=True),
        sa.Column("project", sa.String(63), primary_key=True),
        sa.Column("id", sa.String(255), primary_key=True),
        sa.Column("uid", sa.String(32), nullable=False, unique=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(255), nullable=False),
        sa.Column("state", sa.String(63), nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("status", sa.JSON, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False),
    )
    op.create_index("resources_by_revision", "resources", ["kind", "revision"])
    op.create_index("resources_by_creation", "resources", ["kind", "project", "created_at", "id"])
    op.create_index("resources_by_state", "resources", ["kind", "state"])
    op.create_index("resources_by_request", "resources", ["kind", "project", "request_id"])


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column("revision", BigId, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(63), nullable=False),
        sa.Column("project", sa.String(63), nullable=False),
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("type", sa.String(63), nullable=False),
        sa.Column("cause", sa.String(127), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
    )
    op.create_index("events_by_resource", "events", ["kind", "project", "id", "revision"])


def _create_work_items() -> None:
    op.create_table(
        "work_items",
        sa.Column("item_id", BigId, primary_key=True, autoincrement=True),
        sa.Column("job", sa.String(255), nullable=False),
        sa.Column("phase", sa.String(63), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("payload", sa.JSON, nullable=False),
        sa.Column("state", sa.String(15), nullable=False),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("term", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("available_at", UtcDateTime, nullable=False),
        sa.Column("result", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("error", sa.Text, nullable=False),
        sa.UniqueConstraint("job", "phase", "position", name="work_items_position"),
        sqlite_autoincrement=True,
    )
    op.create_index("work_items_by_state", "work_items", ["state", "item_id"])
