"""Runs that wait or hold GPUs, and what projects may use, as any replica reads them from the database."""

from __future__ import annotations

from longhaul_core.db import Database, resources
from longhaul_core.db.session import Session
from longhaul_core.ids import ANY_PROJECT

from longhaul_training.adapters import codec, project_store, run_store
from longhaul_training.domain.admission import ProjectLimits
from longhaul_training.domain.states import TERMINAL_STATES, Run, RunState


class QueueReader:
    """Reads the queue for an explanation; one query for runs and one for projects."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def read(self) -> tuple[list[Run], dict[str, ProjectLimits]]:
        """All runs that are not over, and the limits of their projects."""
        return await self._db.read(_read)


def _read(session: Session) -> tuple[list[Run], dict[str, ProjectLimits]]:
    live = [state.value for state in RunState if state not in TERMINAL_STATES]
    runs = resources.list_all(session, run_store.KIND, project=ANY_PROJECT, states=live)
    projects = resources.list_all(session, project_store.KIND, project="")
    limits = {row.id: project_store.limits_of(row) for row in projects}
    return [codec.load_run(row) for row in runs], limits
