"""Ingestions and datasets as the API asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from longhaul_core.clock import Clock
from longhaul_core.db import Database, ResourceRow, queue, resources
from longhaul_core.db.session import Session
from longhaul_core.errors import FailedPrecondition, LonghaulError
from longhaul_core.ids import Collection, parse_name
from longhaul_core.objects import ObjectStore

from longhaul_ingest.adapters import repository
from longhaul_ingest.adapters.commit import merge_samples, read_samples, spec_of
from longhaul_ingest.adapters.history import CONTINUED, new_files, seen_files
from longhaul_ingest.adapters.repository import SHARDS, JobKey
from longhaul_ingest.domain.ingestion import (
    ACTIVE,
    DATASET,
    INGESTION,
    IngestionSpec,
    JobState,
    manifest_key,
    summarize_files,
)


class Catalogue:
    """The service's resources."""

    def __init__(self, db: Database, objects: ObjectStore, clock: Clock) -> None:
        self._db = db
        self._objects = objects
        self._clock = clock

    async def create(self, project: str, id: str, spec: IngestionSpec, request_id: str) -> ResourceRow:
        """Accept an ingestion whose sources are there, or return the one there is.

        Raises:
            NotFound, PermissionDenied, FailedPrecondition: a source is missing, unreadable or empty.
            AlreadyExists: the id belongs to an ingestion with other settings or files (SPEC_DIFFERS).
        """
        try:
            inventory = await asyncio.to_thread(_inventory, spec, self._objects, await self._continued(spec))
        except LonghaulError:
            existing = await self._db.read(lambda session: resources.find(session, INGESTION, project, id))
            if existing is not None and existing.state == JobState.SUCCEEDED and spec_of(existing) == spec:
                return existing  # its sources are no longer needed
            raise
        stored = {**spec.model_dump(mode="json"), "inventory": inventory}
        now = self._clock.now()
        return await self._db.run(lambda session: repository.create(session, project, id, stored, request_id, now))

    async def _continued(self, spec: IngestionSpec) -> list[str]:
        """Keys of the manifests of the datasets that an ingestion continues.

        Raises:
            FailedPrecondition: one is not committed (CONTINUED_MISSING).
        """
        keys = []
        for name in spec.continues:
            parsed = parse_name(name, Collection.DATASETS, "spec.continues")
            find = partial(resources.find, kind=DATASET, project=parsed.project, id=parsed.id)
            row: ResourceRow | None = await self._db.read(find)
            if row is None:
                raise FailedPrecondition(
                    f"The dataset {name!r}, which the ingestion continues, is not committed.",
                    reason="CONTINUED_MISSING",
                    metadata={"dataset": name},
                    action="Wait until its ingestion has succeeded, or take it out of `continues`.",
                )
            keys.append(str(row.spec["manifest_key"]))
        return keys

    async def get(self, kind: str, project: str, id: str) -> ResourceRow:
        """One resource. Raises NotFound."""
        return await self._db.read(lambda session: resources.get(session, kind, project, id))

    async def cancel(self, project: str, id: str) -> ResourceRow:
        """Ask an ingestion to stop; a terminal one stays as it is."""
        now = self._clock.now()
        return await self._db.run(lambda session: repository.request_cancel(session, project, id, now))

    async def samples(self, project: str, id: str, rule: str) -> Sequence[Mapping[str, str]]:
        """Samples of what was not kept, by rule; of the shards that are done where the ingestion is under way."""
        row = await self.get(INGESTION, project, id)
        if row.state == JobState.SUCCEEDED:
            found = await asyncio.to_thread(read_samples, self._objects, row)
        else:
            job = str(JobKey.of(row))
            results = await self._db.read(lambda session: queue.results(session, job, SHARDS))
            found = merge_samples(results, spec_of(row).cleaning.drop_samples)
        return [sample for sample in found if rule in ("", sample["rule"])]

    async def delete_dataset(self, project: str, id: str) -> None:
        """Delete a dataset and its objects; the manifest goes first, so that no half of it counts."""
        dataset, ingestion = await self._db.read(lambda session: _dataset_and_ingestion(session, project, id))
        if ingestion is not None and ingestion.state in ACTIVE:
            raise FailedPrecondition(
                f"Ingestion {id!r} is under way.",
                reason="INGESTION_ACTIVE",
                metadata={"state": ingestion.state},
                action="Cancel it first, or wait until it has ended.",
            )
        if dataset is None:
            return
        prefix = str(dataset.spec["manifest_key"]).rpartition("/")[0]
        await asyncio.to_thread(self._objects.delete, manifest_key(prefix))
        now = self._clock.now()
        await self._db.run(lambda session: resources.delete(session, dataset, now=now))
        await asyncio.to_thread(self._objects.delete_prefix, f"{prefix}/")


def _inventory(spec: IngestionSpec, objects: ObjectStore, continued: Sequence[str]) -> dict[str, Any]:
    """What identifies the files of an ingestion; those of the datasets that it continues are left out."""
    summary: dict[str, Any] = {**summarize_files(new_files(spec, seen_files(objects, continued)))}
    return {**summary, CONTINUED: list(continued)} if continued else summary


def _dataset_and_ingestion(session: Session, project: str, id: str) -> tuple[ResourceRow | None, ResourceRow | None]:
    return resources.find(session, DATASET, project, id), resources.find(session, INGESTION, project, id)
