"""TrainingRunService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from longhaul.training.v1 import training_run_pb2 as pb
from longhaul.training.v1 import training_run_pb2_grpc
from longhaul_core.clock import Clock
from longhaul_core.db import Database, resources
from longhaul_core.db import events as event_table
from longhaul_core.ids import check_id, parse_name, parse_parent
from longhaul_core.rpc.paging import page_size
from longhaul_core.rpc.watch import watch

from longhaul_training.adapters import run_store
from longhaul_training.adapters.hub import AgentHub
from longhaul_training.adapters.metric_rows import MetricRow
from longhaul_training.adapters.project_store import ProjectStore
from longhaul_training.adapters.queue_reader import QueueReader
from longhaul_training.adapters.report_store import ReportStore
from longhaul_training.adapters.run_logs import LogCursor, RunLogs
from longhaul_training.adapters.run_store import RunStore, StoredRun
from longhaul_training.convert import agents as convert_agents
from longhaul_training.convert import common, run_status
from longhaul_training.convert import runs as convert
from longhaul_training.domain import verbs
from longhaul_training.domain.actions import RunEvent
from longhaul_training.domain.admission import check_quota
from longhaul_training.domain.explanation import explain

DEFAULT_METRIC_ROWS = 1000
MAXIMUM_METRIC_ROWS = 10_000
ROWS_A_MESSAGE = 500
LINES_A_MESSAGE = 500
LOG_POLL_SECONDS = 0.5

Context = grpc.aio.ServicerContext[Any, Any]


class TrainingRunServicer(training_run_pb2_grpc.TrainingRunServiceServicer):
    """Accepts runs and shows them; the controller does the rest."""

    def __init__(
        self,
        db: Database,
        logs: RunLogs,
        clock: Clock,
        runs: RunStore,
        reports: ReportStore,
        projects: ProjectStore,
        hub: AgentHub,
        queue: QueueReader,
        image: str,
    ) -> None:
        self._image = image
        self._queue = queue
        self._db = db
        self._logs = logs
        self._clock = clock
        self._runs = runs
        self._reports = reports
        self._projects = projects
        self._hub = hub

    async def CreateTrainingRun(self, request: pb.CreateTrainingRunRequest, context: Context) -> pb.TrainingRun:
        """See the proto."""
        project = parse_parent(request.parent)
        run_id = check_id(request.training_run_id, "training_run_id")
        spec = convert.spec_of(request.spec)
        fingerprint = convert.spec_fingerprint(spec)
        stored = await self._runs.create(
            project, run_id, convert.pinned(spec, self._image), fingerprint, request.request_id
        )
        return self._shown(stored)

    async def GetTrainingRun(self, request: pb.GetTrainingRunRequest, context: Context) -> pb.TrainingRun:
        """See the proto."""
        return self._shown(await self._get(request.name))

    async def ListTrainingRuns(
        self, request: pb.ListTrainingRunsRequest, context: Context
    ) -> pb.ListTrainingRunsResponse:
        """See the proto."""
        project = parse_parent(request.parent, any_project=True)
        size = page_size(request.page_size)
        page = await self._db.read(
            lambda session: resources.list_page(
                session, run_store.KIND, project, page_size=size, page_token=request.page_token
            )
        )
        return pb.ListTrainingRunsResponse(
            training_runs=[self._shown(run_store.load(row)) for row in page.rows],
            next_page_token=page.next_page_token,
            revision=page.revision,
        )

    async def WatchTrainingRuns(
        self, request: pb.WatchTrainingRunsRequest, context: Context
    ) -> AsyncIterator[pb.WatchTrainingRunsResponse]:
        """See the proto."""
        name = parse_name(request.name, convert.COLLECTION) if request.name else None
        project = name.project if name else parse_parent(request.parent, any_project=True)
        ids = [name.id] if name else None
        rows = watch(self._db, run_store.KIND, project, after_revision=request.after_revision, ids=ids, context=context)
        async for row in rows:
            yield pb.WatchTrainingRunsResponse(
                type=common.change_type(row), training_run=self._shown(run_store.load(row)), revision=row.revision
            )

    async def CancelTrainingRun(self, request: pb.CancelTrainingRunRequest, context: Context) -> pb.TrainingRun:
        """See the proto."""
        return await self._wish(request.name, verbs.cancel, "CANCEL_REQUESTED", "a user asked to cancel")

    async def PauseTrainingRun(self, request: pb.PauseTrainingRunRequest, context: Context) -> pb.TrainingRun:
        """See the proto."""
        return await self._wish(request.name, verbs.pause, "PAUSE_REQUESTED", "a user asked to pause")

    async def ResumeTrainingRun(self, request: pb.ResumeTrainingRunRequest, context: Context) -> pb.TrainingRun:
        """See the proto."""
        return await self._wish(request.name, verbs.resume, "RESUME_REQUESTED", "a user asked to resume")

    async def RetryTrainingRun(self, request: pb.RetryTrainingRunRequest, context: Context) -> pb.TrainingRun:
        """See the proto."""
        return await self._wish(request.name, verbs.retry, "RETRY_REQUESTED", "a user asked to try again")

    async def ResizeTrainingRun(self, request: pb.ResizeTrainingRunRequest, context: Context) -> pb.TrainingRun:
        """See the proto."""
        stored = await self._get(request.name)
        gpus = stored.run.spec.gpus_per_pod
        convert.check_layout(stored.row.spec["trainer_config"], request.nodes, gpus)
        limits = await self._projects.limits(stored.run.project)
        check_quota(limits, request.nodes * gpus, stored.run.project)
        text = f"a user asked for {request.nodes} node(s)"
        return await self._wish(request.name, verbs.resize(request.nodes), "RESIZE_REQUESTED", text)

    async def ExplainTrainingRun(
        self, request: pb.ExplainTrainingRunRequest, context: Context
    ) -> pb.ExplainTrainingRunResponse:
        """See the proto."""
        stored = await self._get(request.name)
        waiting, limits = await self._queue.read()
        view = explain(stored.run, waiting, limits, self._clock.now().timestamp())
        return run_status.explanation(stored, view)

    async def ListTrainingRunEvents(
        self, request: pb.ListTrainingRunEventsRequest, context: Context
    ) -> pb.ListTrainingRunEventsResponse:
        """See the proto."""
        stored = await self._get(request.name)
        run, limit = stored.run, page_size(request.page_size)
        rows = await self._db.read(
            lambda session: event_table.list_events(
                session, run_store.KIND, run.project, run.id, request.after_revision, limit
            )
        )
        return pb.ListTrainingRunEventsResponse(
            events=[common.event(row, run.name) for row in rows],
            last_revision=rows[-1].revision if rows else request.after_revision,
        )

    async def ListStepMetrics(self, request: pb.ListStepMetricsRequest, context: Context) -> pb.ListStepMetricsResponse:
        """See the proto."""
        run = (await self._get(request.name)).run
        limit = page_size(request.page_size, DEFAULT_METRIC_ROWS, MAXIMUM_METRIC_ROWS)
        # A client begins with after_step 0, which shall include a row of step 0.
        after = request.after_step or -1
        rows = await self._reports.history(run.project, run.id, run.uid, after, limit + 1)
        return pb.ListStepMetricsResponse(rows=_shown_rows(rows[:limit]), more=len(rows) > limit)

    async def WatchStepMetrics(
        self, request: pb.WatchStepMetricsRequest, context: Context
    ) -> AsyncIterator[pb.WatchStepMetricsResponse]:
        """See the proto."""
        sequence = request.after_sequence
        stored = await self._get(request.name)
        run = stored.run
        changes = watch(self._db, run_store.KIND, run.project, ids=[run.id], context=context)
        async for row in changes:
            ended = run_store.load(row).run.control.state.terminal
            while rows := await self._reports.stream(run.project, run.id, run.uid, sequence, ROWS_A_MESSAGE):
                yield pb.WatchStepMetricsResponse(rows=_shown_rows(rows))
                sequence = rows[-1].sequence
            if ended or row.deleted:
                return

    async def ReadLogs(self, request: pb.ReadLogsRequest, context: Context) -> AsyncIterator[pb.ReadLogsResponse]:
        """See the proto."""
        name = parse_name(request.name, convert.COLLECTION)
        rank = request.rank if request.HasField("rank") else None
        cursor, tail_lines = LogCursor(), request.tail_lines
        while not context.cancelled():
            # Looked at before the chunks: what is written until the end is then read.
            run = (await self._runs.get(name.project, name.id)).run
            ended = run.control.state.terminal
            lines, tail_lines = await self._logs.read(run, rank, cursor, tail_lines), 0
            for start in range(0, len(lines), LINES_A_MESSAGE):
                chosen = lines[start : start + LINES_A_MESSAGE]
                yield pb.ReadLogsResponse(lines=[convert.log_line(line) for line in chosen])
            if ended or not request.follow:
                return
            await self._clock.sleep(LOG_POLL_SECONDS)

    async def _get(self, text: str) -> StoredRun:
        name = parse_name(text, convert.COLLECTION)
        return await self._runs.get(name.project, name.id)

    async def _wish(self, text: str, verb: verbs.Verb, event: str, message: str) -> pb.TrainingRun:
        name = parse_name(text, convert.COLLECTION)
        happened = RunEvent(event, "USER", message)
        return self._shown(await self._runs.set_desired(name.project, name.id, verb, happened))

    def _shown(self, stored: StoredRun) -> pb.TrainingRun:
        agents = {pod: self._hub.view(pod) for pod in stored.run.current_pods()}
        return convert.run_to_proto(stored, agents, self._clock.now().timestamp())


def _shown_rows(rows: list[MetricRow]) -> list[pb.StepMetrics]:
    return [convert_agents.step_metrics(row) for row in rows]
