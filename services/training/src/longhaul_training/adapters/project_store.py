"""Projects in the database; `default` exists from the start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from longhaul_core.clock import Clock
from longhaul_core.db import Database, ResourceRow, resources
from longhaul_core.db.session import Session
from longhaul_core.ids import fingerprint

from longhaul_training.domain.admission import ProjectLimits

KIND = "project"
DEFAULT = "default"


class ProjectStore:
    """Reads and writes projects. They belong to no project themselves."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def ensure_default(self) -> None:
        """Creates the default project unless it exists, in whatever form."""
        now = self._clock.now()

        def transact(session: Session) -> None:
            if resources.find(session, KIND, "", DEFAULT) is None:
                _create(session, DEFAULT, _default_spec(DEFAULT), "", now)

        await self._db.run(transact)

    async def create(self, project_id: str, spec: Mapping[str, Any], request_id: str) -> ResourceRow:
        """Creates a project; raises AlreadyExists (SPEC_DIFFERS)."""
        now = self._clock.now()
        full = {**_default_spec(project_id), **spec}
        return await self._db.run(lambda session: _create(session, project_id, full, request_id, now))

    async def get(self, project_id: str) -> ResourceRow:
        """Reads a project; raises NotFound."""
        return await self._db.read(lambda session: resources.get(session, KIND, "", project_id))

    async def limits(self, project_id: str) -> ProjectLimits:
        """What a project may use; raises NotFound."""
        return limits_of(await self.get(project_id))

    async def update(self, project_id: str, spec: Mapping[str, Any], expected_revision: int) -> ResourceRow:
        """Replaces the spec; raises Aborted when the project is no longer of `expected_revision`."""
        now = self._clock.now()
        full = {**_default_spec(project_id), **spec}

        def transact(session: Session) -> ResourceRow:
            row = resources.get(session, KIND, "", project_id, for_update=True)
            return resources.update(
                session,
                row,
                spec=full,
                fingerprint=fingerprint(full),
                expected_revision=expected_revision or None,
                now=now,
            )

        return await self._db.run(transact)


def read_limits(session: Session, project_id: str) -> ProjectLimits:
    """What a project may use, in the caller's transaction; raises NotFound."""
    return limits_of(resources.get(session, KIND, "", project_id))


def limits_of(row: ResourceRow) -> ProjectLimits:
    """What the project of a row may use."""
    return ProjectLimits(int(row.spec["gpu_quota"]), int(row.spec["priority"]))


def namespace_of(row: ResourceRow) -> str:
    """Namespace of the project's pods."""
    return str(row.spec["namespace"])


def _default_spec(project_id: str) -> dict[str, Any]:
    return {"gpu_quota": 0, "priority": 0, "namespace": project_id}


def _create(session: Session, project_id: str, spec: Mapping[str, Any], request_id: str, now: Any) -> ResourceRow:
    row, _ = resources.create(
        session,
        kind=KIND,
        project="",
        id=project_id,
        spec=spec,
        state="ACTIVE",
        fingerprint=fingerprint(dict(spec)),
        request_id=request_id,
        now=now,
    )
    return row
