"""The suite RPCs: validate, convert, delegate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
from longhaul.common.v1 import resource_pb2
from longhaul.evaluation.v1 import evaluation_pb2 as pb
from longhaul.evaluation.v1 import evaluation_pb2_grpc
from longhaul_core.clock import Clock
from longhaul_core.db import Database, Page
from longhaul_core.db.session import Session
from longhaul_core.ids import check_id, parse_parent
from longhaul_core.rpc.bookmarks import with_bookmarks
from longhaul_core.rpc.paging import page_size
from longhaul_core.rpc.watch import watch

from longhaul_evaluation import convert
from longhaul_evaluation.adapters import catalogue, records
from longhaul_evaluation.adapters.waking import Alarm
from longhaul_evaluation.domain.evaluation import State
from longhaul_evaluation.domain.suite import Suite

Context = grpc.aio.ServicerContext[Any, Any]


class EvaluationSuiteServicer(evaluation_pb2_grpc.EvaluationSuiteServiceServicer):
    """`longhaul.evaluation.v1.EvaluationSuiteService`."""

    def __init__(self, db: Database, clock: Clock, alarm: Alarm) -> None:
        self._db = db
        self._clock = clock
        self._alarm = alarm

    async def CreateEvaluationSuite(
        self, request: pb.CreateEvaluationSuiteRequest, context: Context
    ) -> pb.EvaluationSuite:
        project = parse_parent(request.parent)
        spec = convert.suite_spec_of(request.spec, project)
        suite = Suite(project=project, id=check_id(request.evaluation_suite_id, "evaluation_suite_id"), spec=spec)
        now = self._clock.now()
        row, _ = await self._db.run(lambda session: catalogue.create_suite(session, suite, now, request.request_id))
        self._alarm.ring()
        return convert.suite_to_proto(row)

    async def GetEvaluationSuite(self, request: pb.GetEvaluationSuiteRequest, context: Context) -> pb.EvaluationSuite:
        name = convert.suite_name_of(request.name)
        row = await self._db.read(lambda session: catalogue.get_suite(session, name.project, name.id))
        return convert.suite_to_proto(row)

    async def ListEvaluationSuites(
        self, request: pb.ListEvaluationSuitesRequest, context: Context
    ) -> pb.ListEvaluationSuitesResponse:
        project = parse_parent(request.parent, any_project=True)
        size = page_size(request.page_size)

        def look(session: Session) -> Page:
            return catalogue.suite_page(session, project, page_size=size, page_token=request.page_token)

        page = await self._db.read(look)
        return pb.ListEvaluationSuitesResponse(
            evaluation_suites=[convert.suite_to_proto(row) for row in page.rows],
            next_page_token=page.next_page_token,
            revision=page.revision,
        )

    async def WatchEvaluationSuites(
        self, request: pb.WatchEvaluationSuitesRequest, context: Context
    ) -> AsyncIterator[pb.WatchEvaluationSuitesResponse]:
        project = parse_parent(request.parent, any_project=True)
        ids = [convert.suite_name_of(request.name).id] if request.name else None
        rows = watch(
            self._db, records.SUITE_KIND, project, after_revision=request.after_revision, ids=ids, context=context
        )
        revision = request.after_revision
        async for row in with_bookmarks(rows):
            if row is None:
                yield pb.WatchEvaluationSuitesResponse(type=resource_pb2.CHANGE_TYPE_BOOKMARK, revision=revision)
                continue
            revision = row.revision
            yield pb.WatchEvaluationSuitesResponse(
                type=resource_pb2.CHANGE_TYPE_UPDATED, evaluation_suite=convert.suite_to_proto(row), revision=revision
            )

    async def CancelEvaluationSuite(
        self, request: pb.CancelEvaluationSuiteRequest, context: Context
    ) -> pb.EvaluationSuite:
        name = convert.suite_name_of(request.name)
        now = self._clock.now()

        def cancel(suite: Suite) -> Suite:
            return suite if suite.is_terminal else replace(suite, state=State.CANCELLING)

        row = await self._db.run(
            lambda session: catalogue.change_suite(session, name.project, name.id, cancel, now=now)
        )
        self._alarm.ring()
        return convert.suite_to_proto(row)
