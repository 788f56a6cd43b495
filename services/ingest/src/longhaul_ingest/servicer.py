"""The ingest service's RPCs: validate, convert, delegate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from longhaul.common.v1 import resource_pb2
from longhaul.ingest.v1 import dataset_pb2, dataset_pb2_grpc, ingestion_pb2, ingestion_pb2_grpc
from longhaul_core.db import Database, ResourceRow, resources
from longhaul_core.db.events import list_events
from longhaul_core.ids import Collection, check_id, parse_name, parse_parent
from longhaul_core.rpc.bookmarks import with_bookmarks
from longhaul_core.rpc.paging import decode_page_token, encode_page_token, page_size
from longhaul_core.rpc.watch import watch

from longhaul_ingest import convert
from longhaul_ingest.adapters.catalogue import Catalogue
from longhaul_ingest.adapters.commit import spec_of
from longhaul_ingest.adapters.repository import status_of
from longhaul_ingest.domain.ingestion import DATASET, INGESTION

Context = grpc.aio.ServicerContext[Any, Any]


def _show(row: ResourceRow) -> ingestion_pb2.Ingestion:
    return convert.ingestion_to_proto(row, spec_of(row), status_of(row))


def _change(row: ResourceRow) -> resource_pb2.ChangeType.ValueType:
    return resource_pb2.CHANGE_TYPE_DELETED if row.deleted else resource_pb2.CHANGE_TYPE_UPDATED


class IngestionServicer(ingestion_pb2_grpc.IngestionServiceServicer):
    """`longhaul.ingest.v1.IngestionService`."""

    def __init__(self, db: Database, catalogue: Catalogue) -> None:
        self._db = db
        self._catalogue = catalogue

    async def CreateIngestion(
        self, request: ingestion_pb2.CreateIngestionRequest, context: Context
    ) -> ingestion_pb2.Ingestion:
        project = parse_parent(request.parent)
        id = check_id(request.ingestion_id, "ingestion_id")
        spec = convert.spec_from_proto(request.spec)
        return _show(await self._catalogue.create(project, id, spec, request.request_id))

    async def GetIngestion(
        self, request: ingestion_pb2.GetIngestionRequest, context: Context
    ) -> ingestion_pb2.Ingestion:
        name = parse_name(request.name, Collection.INGESTIONS)
        return _show(await self._catalogue.get(INGESTION, name.project, name.id))

    async def ListIngestions(
        self, request: ingestion_pb2.ListIngestionsRequest, context: Context
    ) -> ingestion_pb2.ListIngestionsResponse:
        project = parse_parent(request.parent, any_project=True)
        size = page_size(request.page_size)
        page = await self._db.read(
            lambda session: resources.list_page(
                session, INGESTION, project, page_size=size, page_token=request.page_token
            )
        )
        return ingestion_pb2.ListIngestionsResponse(
            ingestions=[_show(row) for row in page.rows],
            next_page_token=page.next_page_token,
            revision=page.revision,
        )

    async def WatchIngestions(
        self, request: ingestion_pb2.WatchIngestionsRequest, context: Context
    ) -> AsyncIterator[ingestion_pb2.WatchIngestionsResponse]:
        project, ids = _watched(request.parent, request.name, Collection.INGESTIONS)
        rows = watch(self._db, INGESTION, project, after_revision=request.after_revision, ids=ids, context=context)
        revision = request.after_revision
        async for row in with_bookmarks(rows):
            if row is None:
                yield ingestion_pb2.WatchIngestionsResponse(type=resource_pb2.CHANGE_TYPE_BOOKMARK, revision=revision)
                continue
            revision = row.revision
            yield ingestion_pb2.WatchIngestionsResponse(type=_change(row), ingestion=_show(row), revision=revision)

    async def CancelIngestion(
        self, request: ingestion_pb2.CancelIngestionRequest, context: Context
    ) -> ingestion_pb2.Ingestion:
        name = parse_name(request.name, Collection.INGESTIONS)
        return _show(await self._catalogue.cancel(name.project, name.id))

    async def ListDropSamples(
        self, request: ingestion_pb2.ListDropSamplesRequest, context: Context
    ) -> ingestion_pb2.ListDropSamplesResponse:
        name = parse_name(request.name, Collection.INGESTIONS)
        query = [request.name, request.rule]
        start = int(decode_page_token(request.page_token, query) or 0)
        end = start + page_size(request.page_size)
        samples = await self._catalogue.samples(name.project, name.id, request.rule)
        return ingestion_pb2.ListDropSamplesResponse(
            drop_samples=[convert.sample_to_proto(sample) for sample in samples[start:end]],
            next_page_token=encode_page_token(end, query) if end < len(samples) else "",
        )

    async def ListIngestionEvents(
        self, request: ingestion_pb2.ListIngestionEventsRequest, context: Context
    ) -> ingestion_pb2.ListIngestionEventsResponse:
        name = parse_name(request.name, Collection.INGESTIONS)
        limit = page_size(request.page_size)
        await self._catalogue.get(INGESTION, name.project, name.id)
        found = await self._db.read(
            lambda session: list_events(session, INGESTION, name.project, name.id, request.after_revision, limit)
        )
        return ingestion_pb2.ListIngestionEventsResponse(
            events=[convert.event_to_proto(event) for event in found],
            last_revision=found[-1].revision if found else request.after_revision,
        )


class DatasetServicer(dataset_pb2_grpc.DatasetServiceServicer):
    """`longhaul.ingest.v1.DatasetService`."""

    def __init__(self, db: Database, catalogue: Catalogue) -> None:
        self._db = db
        self._catalogue = catalogue

    async def GetDataset(self, request: dataset_pb2.GetDatasetRequest, context: Context) -> dataset_pb2.Dataset:
        name = parse_name(request.name, Collection.DATASETS)
        return convert.dataset_to_proto(await self._catalogue.get(DATASET, name.project, name.id))

    async def ListDatasets(
        self, request: dataset_pb2.ListDatasetsRequest, context: Context
    ) -> dataset_pb2.ListDatasetsResponse:
        project = parse_parent(request.parent, any_project=True)
        size = page_size(request.page_size)
        page = await self._db.read(
            lambda session: resources.list_page(
                session, DATASET, project, page_size=size, page_token=request.page_token
            )
        )
        return dataset_pb2.ListDatasetsResponse(
            datasets=[convert.dataset_to_proto(row) for row in page.rows],
            next_page_token=page.next_page_token,
            revision=page.revision,
        )

    async def WatchDatasets(
        self, request: dataset_pb2.WatchDatasetsRequest, context: Context
    ) -> AsyncIterator[dataset_pb2.WatchDatasetsResponse]:
        project, ids = _watched(request.parent, request.name, Collection.DATASETS)
        rows = watch(self._db, DATASET, project, after_revision=request.after_revision, ids=ids, context=context)
        revision = request.after_revision
        async for row in with_bookmarks(rows):
            if row is None:
                yield dataset_pb2.WatchDatasetsResponse(type=resource_pb2.CHANGE_TYPE_BOOKMARK, revision=revision)
                continue
            revision = row.revision
            shown = convert.dataset_to_proto(row)
            yield dataset_pb2.WatchDatasetsResponse(type=_change(row), dataset=shown, revision=revision)

    async def DeleteDataset(
        self, request: dataset_pb2.DeleteDatasetRequest, context: Context
    ) -> dataset_pb2.DeleteDatasetResponse:
        name = parse_name(request.name, Collection.DATASETS)
        await self._catalogue.delete_dataset(name.project, name.id)
        return dataset_pb2.DeleteDatasetResponse()


def _watched(parent: str, name: str, collection: Collection) -> tuple[str, list[str] | None]:
    """Project and ids to watch: those of one resource where it is named, else all of the parent."""
    if not name:
        return parse_parent(parent, any_project=True), None
    watched = parse_name(name, collection)
    return watched.project, [watched.id]
