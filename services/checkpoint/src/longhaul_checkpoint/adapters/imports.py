"""Checkpoints of published models: a task converts the files, this service commits what it wrote."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import grpc
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from longhaul.common.v1 import resource_pb2
from longhaul.training.v1 import task_pb2, task_pb2_grpc
from longhaul_core.db import Database, ResourceRow
from longhaul_core.db.session import Session
from longhaul_core.errors import AlreadyExists, DataLoss, FailedPrecondition, InvalidArgument, NotFound
from longhaul_core.ids import fingerprint
from longhaul_core.objects.store import ObjectStore
from longhaul_core.rpc.client import rpc_errors
from longhaul_core.tasks import ImportArguments, ImportResult, TaskFailure, failure_key
from pydantic import ValidationError

from longhaul_checkpoint.adapters import catalogue
from longhaul_checkpoint.adapters.commits import Commits
from longhaul_checkpoint.adapters.records import checkpoint_of
from longhaul_checkpoint.domain.checkpoint import VISIBLE_STATES, Description, Identity

EPOCH = 1
MOST_TRIES = 100


class Importer:
    """Asks training for import tasks and commits their results."""

    def __init__(self, db: Database, store: ObjectStore, commits: Commits, channel: grpc.aio.Channel) -> None:
        self._db = db
        self._store = store
        self._commits = commits
        self._tasks = task_pb2_grpc.TaskServiceStub(channel)

    async def advance(self, project: str, model: str, source: str, *, retry: bool) -> tuple[ResourceRow, str]:
        """Start the conversion, or commit what it wrote; returns the checkpoint and the task that is awaited.

        Raises:
            InvalidArgument: no source is named.
            AlreadyExists: a run, or an import from elsewhere, has the name.
            FailedPrecondition: the task failed, and no other is to be tried (IMPORT_FAILED).
            LonghaulError: what training answered.
        """
        if not source:
            raise InvalidArgument("an import needs a source", violations=[("source", "is empty")])
        identity = Identity(project, model, 0, EPOCH)
        await self._require_free(identity)
        row = await self._commits.begin(identity, 1)
        checkpoint = checkpoint_of(row)
        if row.state in VISIBLE_STATES:
            before = checkpoint.committed.description.lineage.get("imported_from")
            if before != source:
                raise _taken(identity, f"it was imported from {before}")
            return row, ""
        mark = fingerprint([identity.name, source, row.uid])[:12]
        result_key = f"projects/{project}/imports/{identity.id}/{mark}.json"
        result = await asyncio.to_thread(self._result, result_key)
        if result is None:
            return row, await self._start(identity, source, mark, result_key, retry=retry)
        objects = [(part.key, part.size, part.digest) for part in result.parts]
        description = Description(lineage=dict(result.lineage))
        return await self._commits.commit(project, identity.id, EPOCH, objects, description), ""

    async def _require_free(self, identity: Identity) -> None:
        """A model's name must not be that of a run: its checkpoints would be taken for the run's."""

        def look(session: Session) -> tuple[bool, bool]:
            run = catalogue.find_run(session, identity.project, identity.run)
            return run is not None, catalogue.find(session, identity.project, identity.id) is not None

        known, begun = await self._db.read(look)
        if known and not begun:
            raise _taken(identity, "a training run has it")

    async def _start(self, identity: Identity, source: str, mark: str, result_key: str, *, retry: bool) -> str:
        arguments = ImportArguments(source=source, prefix=identity.prefix, name=identity.name)
        spec = task_pb2.TaskSpec(
            kind=task_pb2.TASK_KIND_IMPORT,
            arguments=json_format.ParseDict(arguments.model_dump(mode="json"), Struct()),
            result_key=result_key,
            retries=2,
        )
        parent = f"projects/{identity.project}"
        for attempt in range(1, MOST_TRIES + 1):
            request = task_pb2.CreateTaskRequest(parent=parent, task_id=f"import-{mark}-{attempt}", spec=spec)
            with rpc_errors():
                task = await self._tasks.CreateTask(request)
            if task.status.state not in (resource_pb2.JOB_STATE_FAILED, resource_pb2.JOB_STATE_CANCELLED):
                return str(task.metadata.name)
            following = f"{parent}/tasks/import-{mark}-{attempt + 1}"
            if not retry and not await self._exists(following):
                raise await asyncio.to_thread(self._failure, identity, result_key, task)
        raise _taken(identity, f"{MOST_TRIES} tries to import it failed")

    async def _exists(self, name: str) -> bool:
        try:
            with rpc_errors():
                await self._tasks.GetTask(task_pb2.GetTaskRequest(name=name))
        except NotFound:
            return False
        return True

    def _failure(self, identity: Identity, key: str, task: task_pb2.Task) -> FailedPrecondition:
        """What the task said of its end; its state where it could say nothing."""
        said, action = task.status.reason.message, task.status.reason.action
        with suppress(NotFound, ValidationError):
            failure = TaskFailure.model_validate_json(self._store.get(failure_key(key)))
            said, action = failure.message, failure.action
        return FailedPrecondition(
            f"{identity.run!r} was not imported: {said}",
            reason="IMPORT_FAILED",
            metadata={"task": task.metadata.name, "exit_code": str(task.status.exit_code)},
            action=action or "mend what is wrong with the source and import again",
        )

    def _result(self, key: str) -> ImportResult | None:
        try:
            return ImportResult.model_validate_json(self._store.get(key))
        except NotFound:
            return None
        except ValidationError as error:
            raise DataLoss(f"the result {key!r} of the import is damaged: {error}", reason="RESULT_DAMAGED") from error


def _taken(identity: Identity, why: str) -> AlreadyExists:
    return AlreadyExists(
        f"the name {identity.run!r} is taken: {why}",
        reason="MODEL_NAME_TAKEN",
        metadata={"checkpoint": identity.name},
        action="choose another name for the imported model",
    )
