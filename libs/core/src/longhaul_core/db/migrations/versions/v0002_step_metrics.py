"""Metric rows of training runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from longhaul_core.db.schema import UtcDateTime

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table of the newest metric rows; older ones lie in the object store."""
    op.create_table(
        "step_metrics",
        sa.Column("run_uid", sa.String(32), primary_key=True),
        sa.Column("step", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("replayed", sa.Boolean, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("values", sa.JSON, nullable=False),
    )
    op.create_index("step_metrics_by_sequence", "step_metrics", ["run_uid", "sequence"])
