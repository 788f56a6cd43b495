"""Datasets as the ingest service knows them: committed, still to come, or lost because their ingestion failed."""

from dataclasses import dataclass

import grpc
from longhaul.common.v1 import resource_pb2
from longhaul.ingest.v1 import dataset_pb2, dataset_pb2_grpc, ingestion_pb2, ingestion_pb2_grpc
from longhaul_core.clock import Clock
from longhaul_core.errors import LonghaulError, NotFound, Unavailable
from longhaul_core.ids import Collection, ResourceName, parse_name
from longhaul_core.rpc.client import from_rpc_error

from longhaul_corpus.adapters.workspace import Input

_LOOK_SECONDS = 5.0
_ASK_AGAIN_SECONDS = 3.0
"""A failed ingestion is noticed after this long at most; a commit at once."""
_ENDED_BADLY = {
    resource_pb2.JOB_STATE_FAILED: "failed",
    resource_pb2.JOB_STATE_CANCELLED: "was cancelled",
}


@dataclass(frozen=True, slots=True)
class Pending:
    """An input that does not exist yet, and why, for a person."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Lost:
    """An input that will not come."""

    code: str
    message: str
    action: str


class Datasets:
    """Looks datasets up, and tells when one changed.

    What is not there yet is asked for again only after a change, or after `_ASK_AGAIN_SECONDS`.
    """

    def __init__(self, channel: grpc.aio.Channel, clock: Clock) -> None:
        self._clock = clock
        self._pending: dict[str, tuple[float, Pending]] = {}
        self._datasets = dataset_pb2_grpc.DatasetServiceStub(channel)
        self._ingestions = ingestion_pb2_grpc.IngestionServiceStub(channel)

    async def find(self, name: str) -> Input | Pending | Lost:
        """Return the committed dataset, or what is known of one that is not there."""
        asked, answer = self._pending.get(name, (0.0, None))
        if answer is not None and self._clock.monotonic() < asked + _ASK_AGAIN_SECONDS:
            return answer
        found = await self._ask(name)
        self._pending.pop(name, None)
        if isinstance(found, Pending):
            self._pending[name] = (self._clock.monotonic(), found)
        return found

    async def _ask(self, name: str) -> Input | Pending | Lost:
        try:
            request = dataset_pb2.GetDatasetRequest(name=name)
            dataset = await self._datasets.GetDataset(request, timeout=_LOOK_SECONDS)
            return Input(name, dataset.manifest_key, dataset.digest)
        except grpc.aio.AioRpcError as error:
            failure = from_rpc_error(error)
        if isinstance(failure, NotFound):
            return await self._explain(name)
        return _unreachable(name, failure)

    async def changes(self, project: str) -> None:
        """Return when a dataset of the project was committed or deleted.

        Raises:
            LonghaulError: the stream broke; look again, then watch again.
        """
        try:
            listed = await self._datasets.ListDatasets(
                dataset_pb2.ListDatasetsRequest(parent=f"projects/{project}", page_size=1), timeout=_LOOK_SECONDS
            )
            request = dataset_pb2.WatchDatasetsRequest(parent=f"projects/{project}", after_revision=listed.revision)
            async for response in self._datasets.WatchDatasets(request):
                if response.type != resource_pb2.CHANGE_TYPE_BOOKMARK:
                    self._pending.clear()
                    return
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        raise Unavailable("The watch of datasets ended", reason="WATCH_ENDED")

    async def _explain(self, name: str) -> Pending | Lost:
        """Say why a dataset is not there: its ingestion has its id."""
        parsed = parse_name(name, Collection.DATASETS)
        ingestion_name = str(ResourceName(parsed.project, Collection.INGESTIONS, parsed.id))
        try:
            request = ingestion_pb2.GetIngestionRequest(name=ingestion_name)
            ingestion = await self._ingestions.GetIngestion(request, timeout=_LOOK_SECONDS)
        except grpc.aio.AioRpcError as error:
            failure = from_rpc_error(error)
            if isinstance(failure, NotFound):
                return Pending("DATASET_UNKNOWN", f"No dataset {name} exists, and no ingestion that makes it.")
            return _unreachable(name, failure)
        status = ingestion.status
        ending = _ENDED_BADLY.get(status.state)
        if ending is None:
            return Pending("DATASET_NOT_READY", f"The ingestion {ingestion_name} is under way.")
        cause = status.reason.message or "it gave no reason"
        return Lost(
            "INGESTION_" + ending.split()[-1].upper(), f"{ingestion_name} {ending}: {cause}", status.reason.action
        )


def _unreachable(name: str, error: LonghaulError) -> Pending:
    return Pending("INGEST_UNREACHABLE", f"The ingest service cannot be asked for {name}: {error.message}")
