"""ExperimentService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from longhaul.training.v1 import experiment_pb2 as pb
from longhaul.training.v1 import experiment_pb2_grpc
from longhaul_core.db import Database, resources
from longhaul_core.ids import check_id, fingerprint, parse_name, parse_parent
from longhaul_core.rpc.paging import page_size
from longhaul_core.rpc.watch import watch

from longhaul_training.adapters import experiment_store
from longhaul_training.adapters.experiment_store import ExperimentStore
from longhaul_training.adapters.project_store import ProjectStore
from longhaul_training.convert import common
from longhaul_training.convert import experiments as convert
from longhaul_training.domain.admission import check_quota

Context = grpc.aio.ServicerContext[Any, Any]


class ExperimentServicer(experiment_pb2_grpc.ExperimentServiceServicer):
    """Accepts experiments and shows how their arms compare."""

    def __init__(self, db: Database, experiments: ExperimentStore, projects: ProjectStore, image: str) -> None:
        self._image = image
        self._db = db
        self._experiments = experiments
        self._projects = projects

    async def CreateExperiment(self, request: pb.CreateExperimentRequest, context: Context) -> pb.Experiment:
        """See the proto."""
        project = parse_parent(request.parent)
        experiment_id = check_id(request.experiment_id, "experiment_id")
        spec, arms = convert.experiment_spec_of(request.spec, experiment_id, self._image)
        resources_wanted = spec["baseline"]["resources"]
        gpus = resources_wanted["nodes"] * resources_wanted["gpus_per_node"]
        check_quota(await self._projects.limits(project), gpus, project)
        mark = fingerprint([[arm.id, arm.fingerprint] for arm in arms] + [spec["minimum_effect"]])
        row = await self._experiments.create(project, experiment_id, spec, arms, mark, request.request_id)
        return convert.experiment_to_proto(row)

    async def GetExperiment(self, request: pb.GetExperimentRequest, context: Context) -> pb.Experiment:
        """See the proto."""
        name = parse_name(request.name, convert.COLLECTION)
        return convert.experiment_to_proto(await self._experiments.get(name.project, name.id))

    async def ListExperiments(self, request: pb.ListExperimentsRequest, context: Context) -> pb.ListExperimentsResponse:
        """See the proto."""
        project = parse_parent(request.parent, any_project=True)
        size = page_size(request.page_size)
        page = await self._db.read(
            lambda session: resources.list_page(
                session, experiment_store.KIND, project, page_size=size, page_token=request.page_token
            )
        )
        return pb.ListExperimentsResponse(
            experiments=[convert.experiment_to_proto(row) for row in page.rows],
            next_page_token=page.next_page_token,
            revision=page.revision,
        )

    async def WatchExperiments(
        self, request: pb.WatchExperimentsRequest, context: Context
    ) -> AsyncIterator[pb.WatchExperimentsResponse]:
        """See the proto."""
        name = parse_name(request.name, convert.COLLECTION) if request.name else None
        project = name.project if name else parse_parent(request.parent, any_project=True)
        ids = [name.id] if name else None
        rows = watch(
            self._db, experiment_store.KIND, project, after_revision=request.after_revision, ids=ids, context=context
        )
        async for row in rows:
            experiment = convert.experiment_to_proto(row)
            yield pb.WatchExperimentsResponse(
                type=common.change_type(row), experiment=experiment, revision=row.revision
            )

    async def CancelExperiment(self, request: pb.CancelExperimentRequest, context: Context) -> pb.Experiment:
        """See the proto."""
        name = parse_name(request.name, convert.COLLECTION)
        return convert.experiment_to_proto(await self._experiments.cancel(name.project, name.id))
