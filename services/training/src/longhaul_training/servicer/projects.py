"""ProjectService and PlanService."""

from __future__ import annotations

from typing import Any

import grpc
from longhaul.training.v1 import plan_pb2, plan_pb2_grpc, project_pb2_grpc
from longhaul.training.v1 import project_pb2 as pb
from longhaul_core.db import Database, ResourceRow, resources
from longhaul_core.db.session import Session
from longhaul_core.ids import check_id
from longhaul_core.rpc.paging import page_size

from longhaul_training.adapters import codec, project_store, run_store
from longhaul_training.adapters.project_store import ProjectStore
from longhaul_training.convert import plans
from longhaul_training.convert import tasks as convert
from longhaul_training.domain.planning.plan import make_plan
from longhaul_training.domain.states import ACTIVE_STATES, RunState

_QUEUED = (RunState.QUEUED.value, RunState.WAITING_FOR_INPUTS.value)

Context = grpc.aio.ServicerContext[Any, Any]


class ProjectServicer(project_pb2_grpc.ProjectServiceServicer):
    """Projects with what they use now."""

    def __init__(self, db: Database, projects: ProjectStore) -> None:
        self._db = db
        self._projects = projects

    async def CreateProject(self, request: pb.CreateProjectRequest, context: Context) -> pb.Project:
        """See the proto."""
        project_id = check_id(request.project_id, "project_id")
        spec = convert.project_spec_of(request.spec)
        return await self._shown(await self._projects.create(project_id, spec, request.request_id))

    async def GetProject(self, request: pb.GetProjectRequest, context: Context) -> pb.Project:
        """See the proto."""
        return await self._shown(await self._projects.get(convert.project_id_of(request.name)))

    async def ListProjects(self, request: pb.ListProjectsRequest, context: Context) -> pb.ListProjectsResponse:
        """See the proto."""
        size = page_size(request.page_size)
        page = await self._db.read(
            lambda session: resources.list_page(
                session, project_store.KIND, "", page_size=size, page_token=request.page_token
            )
        )
        return pb.ListProjectsResponse(
            projects=[await self._shown(row) for row in page.rows],
            next_page_token=page.next_page_token,
            revision=page.revision,
        )

    async def UpdateProject(self, request: pb.UpdateProjectRequest, context: Context) -> pb.Project:
        """See the proto."""
        project_id = convert.project_id_of(request.name)
        spec = convert.project_spec_of(request.spec)
        return await self._shown(await self._projects.update(project_id, spec, request.expected_revision))

    async def _shown(self, row: ResourceRow) -> pb.Project:
        gpus, active, queued = await self._db.read(lambda session: _usage(session, row.id))
        return convert.project_to_proto(row, gpus, active, queued)


class PlanServicer(plan_pb2_grpc.PlanServiceServicer):
    """Plans are computed and forgotten."""

    async def CreatePlan(self, request: plan_pb2.CreatePlanRequest, context: Context) -> plan_pb2.Plan:
        """See the proto."""
        asked = plans.plan_request_of(request)
        return plans.plan_to_proto(make_plan(asked), asked.accelerator)


def _usage(session: Session, project: str) -> tuple[int, int, int]:
    """GPUs in use, runs that hold some, runs that wait."""
    active = [state.value for state in ACTIVE_STATES]
    rows = resources.list_all(session, run_store.KIND, project=project, states=active)
    gpus = sum(codec.load_run(row).spec.gpus for row in rows)
    return gpus, len(rows), resources.count(session, run_store.KIND, project, states=_QUEUED)
