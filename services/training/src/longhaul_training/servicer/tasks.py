"""TaskService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from longhaul.training.v1 import task_pb2 as pb
from longhaul.training.v1 import task_pb2_grpc
from longhaul_core.db import Database, resources
from longhaul_core.ids import check_id, fingerprint, parse_name, parse_parent
from longhaul_core.rpc.paging import page_size
from longhaul_core.rpc.watch import watch

from longhaul_training.adapters import task_store
from longhaul_training.adapters.project_store import ProjectStore
from longhaul_training.adapters.task_store import TaskStore
from longhaul_training.convert import common
from longhaul_training.convert import tasks as convert

Context = grpc.aio.ServicerContext[Any, Any]


class TaskServicer(task_pb2_grpc.TaskServiceServicer):
    """Accepts tasks and shows them."""

    def __init__(self, db: Database, tasks: TaskStore, projects: ProjectStore) -> None:
        self._db = db
        self._tasks = tasks
        self._projects = projects

    async def CreateTask(self, request: pb.CreateTaskRequest, context: Context) -> pb.Task:
        """See the proto."""
        project = parse_parent(request.parent)
        task_id = check_id(request.task_id, "task_id")
        spec = convert.task_spec_of(request.spec)
        await self._projects.get(project)
        stored = await self._tasks.create(project, task_id, spec, fingerprint(spec), request.request_id)
        return convert.task_to_proto(stored)

    async def GetTask(self, request: pb.GetTaskRequest, context: Context) -> pb.Task:
        """See the proto."""
        name = parse_name(request.name, convert.COLLECTION)
        return convert.task_to_proto(await self._tasks.get(name.project, name.id))

    async def ListTasks(self, request: pb.ListTasksRequest, context: Context) -> pb.ListTasksResponse:
        """See the proto."""
        project = parse_parent(request.parent, any_project=True)
        size = page_size(request.page_size)
        page = await self._db.read(
            lambda session: resources.list_page(
                session, task_store.KIND, project, page_size=size, page_token=request.page_token
            )
        )
        return pb.ListTasksResponse(
            tasks=[convert.task_to_proto(task_store.load(row)) for row in page.rows],
            next_page_token=page.next_page_token,
            revision=page.revision,
        )

    async def WatchTasks(self, request: pb.WatchTasksRequest, context: Context) -> AsyncIterator[pb.WatchTasksResponse]:
        """See the proto."""
        name = parse_name(request.name, convert.COLLECTION) if request.name else None
        project = name.project if name else parse_parent(request.parent, any_project=True)
        ids = [name.id] if name else None
        rows = watch(
            self._db, task_store.KIND, project, after_revision=request.after_revision, ids=ids, context=context
        )
        async for row in rows:
            task = convert.task_to_proto(task_store.load(row))
            yield pb.WatchTasksResponse(type=common.change_type(row), task=task, revision=row.revision)

    async def CancelTask(self, request: pb.CancelTaskRequest, context: Context) -> pb.Task:
        """See the proto."""
        name = parse_name(request.name, convert.COLLECTION)
        return convert.task_to_proto(await self._tasks.cancel(name.project, name.id))
