"""The index of states goes on by project and id, so that what is in a rare state is found run by run."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

_NAME = "resources_by_state"


def upgrade() -> None:
    """Make the index anew, with two more columns."""
    op.drop_index(_NAME, table_name="resources")
    op.create_index(_NAME, "resources", ["kind", "state", "project", "id"])
