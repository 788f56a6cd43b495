"""What is read of committed checkpoints by their manifests: the difference of two, the environment of one."""

from __future__ import annotations

import asyncio

from longhaul_core.db import Database
from longhaul_core.db.differences import differences
from longhaul_core.db.session import Session
from longhaul_core.errors import NotFound
from longhaul_core.ids import ResourceName
from longhaul_core.manifests import Part as ManifestPart
from longhaul_core.manifests import verify_part
from longhaul_core.objects.store import ObjectStore

from longhaul_checkpoint.adapters import catalogue, manifests
from longhaul_checkpoint.adapters.records import checkpoint_of
from longhaul_checkpoint.domain.checkpoint import Checkpoint
from longhaul_checkpoint.domain.diff import PartDifference, diff_parts

ENVIRONMENT_FILE = "environment.json"


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

    async def environment(self, name: ResourceName) -> str:
        """Return the record of what a checkpoint was computed with.

        Raises:
            NotFound: there is no such checkpoint, or it has no record (NO_ENVIRONMENT).
            FailedPrecondition: it is not committed.
            DataLoss: manifest or record is damaged.
        """
        checkpoint = checkpoint_of(await self._db.read(lambda session: catalogue.get(session, name.project, name.id)))
        _ = checkpoint.committed
        return await asyncio.to_thread(self._environment, checkpoint)

    def _environment(self, checkpoint: Checkpoint) -> str:
        identity = checkpoint.identity
        for part in manifests.parts_of(manifests.read(self._store, identity), identity):
            if part.path == ENVIRONMENT_FILE:
                verify_part(self._store, ManifestPart(key=part.key, size=part.size, digest=part.digest))
                return self._store.get(part.key).decode()
        raise NotFound(
            f"checkpoint {identity.id!r} has no record of its environment",
            reason="NO_ENVIRONMENT",
            metadata={"checkpoint": identity.name},
            action="see its lineage: `longhaul checkpoints show`",
        )
