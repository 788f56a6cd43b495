"""Comparison of two committed checkpoints by their manifests."""

from __future__ import annotations

import asyncio

from longhaul_core.db import Database
from longhaul_core.db.differences import differences
from longhaul_core.ids import ResourceName
from longhaul_core.objects.store import ObjectStore
from sqlalchemy.orm import Session

from longhaul_checkpoint.adapters import catalogue, manifests
from longhaul_checkpoint.adapters.records import checkpoint_of
from longhaul_checkpoint.domain.checkpoint import Checkpoint
from longhaul_checkpoint.domain.diff import PartDifference, diff_parts


class Comparison:
    """Reads manifests of two checkpoints and tells them apart."""

    def __init__(self, db: Database, store: ObjectStore) -> None:
        self._db = db
        self._store = store

    async def diff(self, first: ResourceName, second: ResourceName) -> tuple[list[PartDifference], dict[str, str]]:
        """Return the difference of the parts, and of the lineage as `path: old -> new`.

        Raises:
            NotFound: one of the two does not exist.
            FailedPrecondition: one of the two is not committed.
            DataLoss: a manifest is damaged.
        """

        def look(session: Session) -> tuple[Checkpoint, Checkpoint]:
            rows = [catalogue.get(session, name.project, name.id) for name in (first, second)]
            return checkpoint_of(rows[0]), checkpoint_of(rows[1])

        before, after = await self._db.read(look)
        lineage = differences(dict(before.committed.description.lineage), dict(after.committed.description.lineage))
        left, right = await asyncio.to_thread(
            lambda: [
                manifests.parts_of(manifests.read(self._store, it.identity), it.identity) for it in (before, after)
            ]
        )
        return diff_parts(left, right), lineage
