"""What users ask for: creation, cancellation, deletion, and reading of what jobs left in the object store."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from longhaul_core.clock import Clock
from longhaul_core.db import Database, ResourceRow, resources
from longhaul_core.db.session import Session
from longhaul_core.engine import Engine, RemoteTaskError
from longhaul_core.errors import FailedPrecondition, NotFound
from longhaul_core.ids import fingerprint
from longhaul_core.manifests import hash_bytes
from longhaul_core.objects import ObjectStore

from longhaul_corpus.adapters.products import refuse_foreign_tokenizer
from longhaul_corpus.adapters.records import BUILD, TOKEN_SET, TOKENIZER, dump_spec, dump_training, move, object_prefix
from longhaul_corpus.adapters.tasks import score_tokenizer
from longhaul_corpus.adapters.upstream import Datasets
from longhaul_corpus.adapters.workspace import DUPLICATES_FILE, REPORT, Input
from longhaul_corpus.domain.jobs import ACTIVE, REPEATABLE, JobState
from longhaul_corpus.domain.spec import BuildSpec, TokenizerTraining, check_spec


class BuildRequests:
    """Requests on corpus builds."""

    def __init__(self, db: Database, store: ObjectStore, clock: Clock, poke: Callable[[], None]) -> None:
        self._db = db
        self._store = store
        self._clock = clock
        self._poke = poke

    async def create(self, project: str, id: str, spec: BuildSpec, request_id: str) -> ResourceRow:
        """Accept a build. The same spec again returns the build; one that failed or was cancelled begins anew."""
        check_spec(spec)
        document = dump_spec(spec)
        now = self._clock.now()

        def transact(session: Session) -> ResourceRow:
            if spec.training is not None:
                refuse_foreign_tokenizer(session, project, id)
            return _create(session, BUILD, project, id, document, request_id, now)

        row = await self._db.run(transact)
        self._poke()
        return row

    async def cancel(self, project: str, id: str) -> ResourceRow:
        """Ask a build to stop; one at its end stays as it is."""
        now = self._clock.now()

        def transact(session: Session) -> ResourceRow:
            row = resources.get(session, BUILD, project, id, for_update=True)
            if JobState(row.state) not in ACTIVE or row.state == JobState.CANCELLING:
                return row
            return move(session, row, JobState.CANCELLING, row.status, now, cause="CANCEL_REQUESTED")

        row = await self._db.run(transact)
        self._poke()
        return row

    async def report(self, project: str, id: str) -> dict[str, Any]:
        """Return the report of a finished build."""
        row = await self._db.read(lambda session: resources.get(session, BUILD, project, id))
        if row.state != JobState.SUCCEEDED:
            raise FailedPrecondition(
                f"The build {id!r} is {row.state.lower()}; its report is written at its end",
                reason="BUILD_NOT_FINISHED",
            )
        content = await asyncio.to_thread(self._store.get, f"{object_prefix(row, 'tokensets')}/{REPORT}")
        document: dict[str, Any] = json.loads(content)
        return document

    async def duplicates(self, project: str, id: str, start: int, count: int) -> list[Mapping[str, Any]]:
        """Return pairs of dropped and kept documents from position `start`, as soon as deduplication is done."""
        row = await self._db.read(lambda session: resources.get(session, BUILD, project, id))
        try:
            return await asyncio.to_thread(self._pairs, object_prefix(row, "tokensets"), start, count)
        except NotFound as error:
            raise FailedPrecondition(
                f"The build {id!r} is {row.state.lower()} and has not compared the documents yet",
                reason="DUPLICATES_NOT_KNOWN",
            ) from error

    def _pairs(self, prefix: str, start: int, count: int) -> list[Mapping[str, Any]]:
        import pyarrow.parquet as pq  # a large library, for this call alone

        with self._store.open_read(f"{prefix}/{DUPLICATES_FILE}") as source:
            table = pq.ParquetFile(source).read()
        rows: list[Mapping[str, Any]] = table.slice(start, count).to_pylist()
        return rows


class TokenSetRequests:
    """Requests on token sets."""

    def __init__(self, db: Database, store: ObjectStore, clock: Clock) -> None:
        self._db = db
        self._store = store
        self._clock = clock

    async def delete(self, project: str, id: str) -> None:
        """Delete a token set, its build and its objects, so that the build can be asked for again; none is no error."""
        now = self._clock.now()

        def transact(session: Session) -> str:
            row = resources.find(session, TOKEN_SET, project, id)
            if row is None:
                return ""
            build = resources.find(session, BUILD, project, id)
            if build is not None:
                resources.delete(session, build, now=now)
            resources.delete(session, row, now=now)
            return str(row.status["manifest_key"]).rpartition("/")[0]

        prefix = await self._db.run(transact)
        if prefix:
            await asyncio.to_thread(self._store.delete_prefix, f"{prefix}/")


@dataclass(frozen=True, slots=True)
class TokenizerRequest:
    """A tokenizer to make: trained on datasets, or read from `document`."""

    training: TokenizerTraining | None
    datasets: tuple[str, ...]
    document: bytes
    end_of_text: str


class TokenizerRequests:
    """Requests on tokenizers."""

    def __init__(
        self,
        db: Database,
        store: ObjectStore,
        clock: Clock,
        engine: Engine,
        datasets: Datasets,
        store_url: str,
        poke: Callable[[], None],
    ) -> None:
        self._db = db
        self._store = store
        self._clock = clock
        self._engine = engine
        self._datasets = datasets
        self._store_url = store_url
        self._poke = poke

    async def create(self, project: str, id: str, request: TokenizerRequest, request_id: str) -> ResourceRow:
        """Accept a tokenizer; the content of an import is stored first, under its digest."""
        key = ""
        if request.document:
            key = f"projects/{project}/tokenizers/{id}/imports/{hash_bytes(request.document)}.json"
            await asyncio.to_thread(self._store.put, key, request.document)
        spec = {
            "corpus_build": "",
            "training": dump_training(request.training) if request.training else None,
            "datasets": list(request.datasets),
            "import_key": key,
            "end_of_text": request.end_of_text,
        }
        now = self._clock.now()
        row = await self._db.run(lambda session: _create(session, TOKENIZER, project, id, spec, request_id, now))
        self._poke()
        return row

    async def score(self, row: ResourceRow, dataset: str, documents: int, seed: int) -> list[dict[str, Any]]:
        """Measure a tokenizer on a sample of a committed dataset."""
        if row.state != JobState.SUCCEEDED:
            raise FailedPrecondition(f"The tokenizer {row.id!r} is {row.state.lower()}", reason="TOKENIZER_NOT_READY")
        found = await self._datasets.find(dataset)
        if not isinstance(found, Input):
            raise FailedPrecondition(found.message, reason=found.code)
        payload = {
            "store_url": self._store_url,
            "manifest_key": row.status["manifest_key"],
            "manifest_digest": row.status["manifest_digest"],
            "dataset": {"name": found.name, "manifest_key": found.manifest_key, "digest": found.digest},
            "documents": documents,
            "seed": seed,
        }
        try:
            scores: list[dict[str, Any]] = (await self._engine.submit(score_tokenizer, payload))["scores"]
        except RemoteTaskError as error:
            raise error.error from error
        return scores


def _create(
    session: Session, kind: str, project: str, id: str, spec: dict[str, Any], request_id: str, now: datetime
) -> ResourceRow:
    """Create a job; the same one again begins anew where it failed, unless the request is a repetition."""
    row, created = resources.create(
        session,
        kind=kind,
        project=project,
        id=id,
        spec=spec,
        state=JobState.QUEUED,
        status={"attempt": 1},
        fingerprint=fingerprint(spec),
        request_id=request_id,
        now=now,
    )
    repeated = bool(request_id) and row.request_id == request_id
    if created or repeated or JobState(row.state) not in REPEATABLE:
        return row
    status = {"attempt": int(row.status.get("attempt", 1)) + 1}
    return move(session, row, JobState.QUEUED, status, now, cause="ASKED_AGAIN")
