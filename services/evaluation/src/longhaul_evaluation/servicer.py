"""The evaluation service's RPCs: validate, convert, delegate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from longhaul.common.v1 import resource_pb2
from longhaul.evaluation.v1 import evaluation_pb2 as pb
from longhaul.evaluation.v1 import evaluation_pb2_grpc
from longhaul_core.clock import Clock
from longhaul_core.db import Database, Page
from longhaul_core.db.session import Session
from longhaul_core.ids import check_id, new_uid, parse_parent
from longhaul_core.rpc.bookmarks import with_bookmarks
from longhaul_core.rpc.paging import page_size
from longhaul_core.rpc.watch import watch

from longhaul_evaluation import convert
from longhaul_evaluation.adapters import catalogue, records
from longhaul_evaluation.adapters.reports import Reports
from longhaul_evaluation.adapters.waking import Alarm
from longhaul_evaluation.domain.evaluation import Evaluation

Context = grpc.aio.ServicerContext[Any, Any]


class EvaluationServicer(evaluation_pb2_grpc.EvaluationServiceServicer):
    """`longhaul.evaluation.v1.EvaluationService`."""

    def __init__(self, db: Database, clock: Clock, reports: Reports, alarm: Alarm) -> None:
        self._db = db
        self._clock = clock
        self._reports = reports
        self._alarm = alarm

    async def CreateEvaluation(self, request: pb.CreateEvaluationRequest, context: Context) -> pb.Evaluation:
        project = parse_parent(request.parent)
        spec = convert.evaluation_spec_of(request.spec, project)
        identifier = check_id(request.evaluation_id, "evaluation_id")
        evaluation = Evaluation(project=project, id=identifier, uid=new_uid(), spec=spec)
        now = self._clock.now()
        row, _ = await self._db.run(
            lambda session: catalogue.create_evaluation(session, evaluation, now, request.request_id)
        )
        self._alarm.ring()
        return convert.evaluation_to_proto(row)

    async def GetEvaluation(self, request: pb.GetEvaluationRequest, context: Context) -> pb.Evaluation:
        name = convert.evaluation_name_of(request.name)
        row = await self._db.read(lambda session: catalogue.get_evaluation(session, name.project, name.id))
        return convert.evaluation_to_proto(row)

    async def ListEvaluations(self, request: pb.ListEvaluationsRequest, context: Context) -> pb.ListEvaluationsResponse:
        project, run = convert.list_filter_of(request)
        size = page_size(request.page_size)

        def look(session: Session) -> Page:
            return catalogue.evaluation_page(session, project, run, page_size=size, page_token=request.page_token)

        page = await self._db.read(look)
        return pb.ListEvaluationsResponse(
            evaluations=[convert.evaluation_to_proto(row) for row in page.rows],
            next_page_token=page.next_page_token,
            revision=page.revision,
        )

    async def WatchEvaluations(
        self, request: pb.WatchEvaluationsRequest, context: Context
    ) -> AsyncIterator[pb.WatchEvaluationsResponse]:
        project = parse_parent(request.parent, any_project=True)
        ids = [convert.evaluation_name_of(request.name).id] if request.name else None
        rows = watch(
            self._db,
            records.EVALUATION_KIND,
            project,
            after_revision=request.after_revision,
            ids=ids,
            context=context,
        )
        revision = request.after_revision
        async for row in with_bookmarks(rows):
            if row is None:
                yield pb.WatchEvaluationsResponse(type=resource_pb2.CHANGE_TYPE_BOOKMARK, revision=revision)
                continue
            revision = row.revision
            yield pb.WatchEvaluationsResponse(
                type=resource_pb2.CHANGE_TYPE_UPDATED, evaluation=convert.evaluation_to_proto(row), revision=revision
            )

    async def CancelEvaluation(self, request: pb.CancelEvaluationRequest, context: Context) -> pb.Evaluation:
        name = convert.evaluation_name_of(request.name)
        now = self._clock.now()
        row = await self._db.run(
            lambda session: catalogue.change_evaluation(
                session, name.project, name.id, Evaluation.request_cancel, now=now
            )
        )
        self._alarm.ring()
        return convert.evaluation_to_proto(row)

    async def CompareEvaluations(
        self, request: pb.CompareEvaluationsRequest, context: Context
    ) -> pb.CompareEvaluationsResponse:
        first = convert.evaluation_name_of(request.first, "first")
        second = convert.evaluation_name_of(request.second, "second")
        differences = await self._reports.compare(first, second, task=request.task, seed=request.seed)
        return convert.differences_to_proto(differences)

    async def GetScoreCurve(self, request: pb.GetScoreCurveRequest, context: Context) -> pb.ScoreCurve:
        return convert.curve_to_proto(*await self._reports.curve(convert.run_name_of(request.training_run)))
