"""NodeHealthService: validates, converts, delegates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
from longhaul.common.v1 import resource_pb2 as common
from longhaul.gpuhealth.v1 import node_health_pb2 as pb
from longhaul.gpuhealth.v1 import node_health_pb2_grpc
from longhaul_core.clock import Clock
from longhaul_core.db import Database
from longhaul_core.errors import InvalidArgument
from longhaul_core.rpc.paging import page_size
from longhaul_core.rpc.watch import watch

from longhaul_gpuhealth import convert
from longhaul_gpuhealth.adapters.records import NO_PROJECT, NODE_KIND, NodeRecords, StoredNode, record_of
from longhaul_gpuhealth.adapters.rules_source import RulesSource
from longhaul_gpuhealth.domain.budget import Budget
from longhaul_gpuhealth.domain.explanation import explain
from longhaul_gpuhealth.domain.model import NodeVerdict
from longhaul_gpuhealth.domain.ranks import compare_ranks
from longhaul_gpuhealth.domain.replay import replay
from longhaul_gpuhealth.domain.rulefile import RulesFault, parse_rules
from longhaul_gpuhealth.domain.rules import RuleSet
from longhaul_gpuhealth.domain.verbs import Policy
from longhaul_gpuhealth.monitor.monitor import Monitor
from longhaul_gpuhealth.operations import Operations

EXPLAINED_EVENTS = 200
MAXIMUM_REPLAY_SAMPLES = 200_000

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(slots=True)
class NodeHealthServicer(node_health_pb2_grpc.NodeHealthServiceServicer):
    """The API."""

    db: Database
    clock: Clock
    records: NodeRecords
    operations: Operations
    monitor: Monitor
    rules: RulesSource
    policy: Policy
    silence_seconds: float

    async def GetNodeHealth(self, request: pb.GetNodeHealthRequest, context: Context) -> pb.NodeHealth:
        """See the proto."""
        return self._shown(await self.records.get(convert.node_name(request.name)))

    async def ListNodeHealth(self, request: pb.ListNodeHealthRequest, context: Context) -> pb.ListNodeHealthResponse:
        """See the proto."""
        states = [convert.health_state(value) for value in request.states]
        page = await self.records.page(page_size(request.page_size), request.page_token, states)
        shown = [self._shown(StoredNode(record_of(row), row)) for row in page.rows]
        return pb.ListNodeHealthResponse(
            nodes=sorted(shown, key=lambda node: node.node),
            next_page_token=page.next_page_token,
            revision=page.revision,
        )

    async def WatchNodeHealth(
        self, request: pb.WatchNodeHealthRequest, context: Context
    ) -> AsyncIterator[pb.WatchNodeHealthResponse]:
        """See the proto."""
        ids = [convert.node_name(request.name)] if request.name else None
        rows = watch(self.db, NODE_KIND, NO_PROJECT, after_revision=request.after_revision, ids=ids, context=context)
        async for row in rows:
            type_ = common.CHANGE_TYPE_DELETED if row.deleted else common.CHANGE_TYPE_UPDATED
            node = self._shown(StoredNode(record_of(row), row))
            yield pb.WatchNodeHealthResponse(type=type_, node=node, revision=row.revision)

    async def QuarantineNode(self, request: pb.QuarantineNodeRequest, context: Context) -> pb.NodeHealth:
        """See the proto."""
        node = convert.node_name(request.name)
        _need(reason=request.reason, author=request.author)
        return self._shown(
            await self.operations.quarantine(node, reason=request.reason, author=request.author, force=request.force)
        )

    async def ReleaseNode(self, request: pb.ReleaseNodeRequest, context: Context) -> pb.NodeHealth:
        """See the proto."""
        node = convert.node_name(request.name)
        _need(reason=request.reason, author=request.author)
        return self._shown(
            await self.operations.release(node, reason=request.reason, author=request.author, session=request.session)
        )

    async def SetNodeOverride(self, request: pb.SetNodeOverrideRequest, context: Context) -> pb.NodeHealth:
        """See the proto."""
        node = convert.node_name(request.name)
        override = convert.override_from(request.override) if request.HasField("override") else None
        return self._shown(await self.operations.override(node, override))

    async def AcknowledgeDrain(self, request: pb.AcknowledgeDrainRequest, context: Context) -> pb.NodeHealth:
        """See the proto."""
        node = convert.node_name(request.name)
        _need(session=request.session, acknowledged_by=request.acknowledged_by)
        return self._shown(
            await self.operations.acknowledge_drain(
                node, session=request.session, by=request.acknowledged_by, message=request.message
            )
        )

    async def ListRules(self, request: pb.ListRulesRequest, context: Context) -> pb.ListRulesResponse:
        """See the proto."""
        rules = self.rules.rules
        return pb.ListRulesResponse(
            rules=[convert.rule(rule) for rule in rules.rules],
            version=rules.version,
            load_error=self.rules.load_error,
        )

    async def ExplainVerdict(self, request: pb.ExplainVerdictRequest, context: Context) -> pb.ExplainVerdictResponse:
        """See the proto."""
        stored = await self.records.get(convert.node_name(request.name))
        rows = await self.records.events(stored.record.node, EXPLAINED_EVENTS)
        return pb.ExplainVerdictResponse(
            node=self._shown(stored),
            explanation=explain(stored.record, self.rules.rules),
            events=convert.events(rows),
        )

    async def ReplaySignals(self, request: pb.ReplaySignalsRequest, context: Context) -> pb.ReplaySignalsResponse:
        """See the proto; runs beside the event loop, since it may take seconds."""
        if len(request.samples) > MAXIMUM_REPLAY_SAMPLES or request.nodes < 0:
            description = f"at most {MAXIMUM_REPLAY_SAMPLES} samples, and nodes not negative"
            raise InvalidArgument(f"replay: {description}", violations=[("samples", description)])
        rules = self._rules_of(request.rules_yaml)
        samples = [convert.sample_from(sample) for sample in request.samples]
        outcome = await asyncio.to_thread(
            replay, samples, rules, self.policy, silence_seconds=self.silence_seconds, nodes=request.nodes
        )
        return convert.replay_response(outcome)

    async def ResetBreaker(self, request: pb.ResetBreakerRequest, context: Context) -> pb.BudgetStatus:
        """See the proto."""
        _need(author=request.author)
        return await self._budget(await self.operations.reset_breaker(request.author))

    async def RequestBurnIn(self, request: pb.RequestBurnInRequest, context: Context) -> pb.NodeHealth:
        """See the proto."""
        node = convert.node_name(request.name)
        _need(author=request.author)
        return self._shown(await self.operations.request_burn_in(node, request.author))

    async def ReportBurnIn(self, request: pb.ReportBurnInRequest, context: Context) -> pb.NodeHealth:
        """See the proto."""
        node = convert.node_name(request.name)
        _need(session=request.session, device=request.device)
        return self._shown(
            await self.operations.report_burn_in(
                node,
                session=request.session,
                passed=request.passed,
                message=request.message,
                device=request.device,
                measurements=convert.measurements_from(request.measurements),
            )
        )

    async def CompareRanks(self, request: pb.CompareRanksRequest, context: Context) -> pb.CompareRanksResponse:
        """See the proto; of nodes that another replica looks after the last stored values count."""
        project, run = convert.run_name(request.run)
        live = {verdict.node: verdict for verdict in self.monitor.live_verdicts()}
        for node, stored in (await self.records.all()).items():
            record = stored.record
            live.setdefault(node, NodeVerdict(node, record.state, record.gpus, record.findings))
        return convert.rank_comparison(compare_ranks(live.values(), project, run))

    async def GetBudget(self, request: pb.GetBudgetRequest, context: Context) -> pb.BudgetStatus:
        """See the proto."""
        return await self._budget(await self.records.budget())

    def _shown(self, stored: StoredNode) -> pb.NodeHealth:
        live = self.monitor.live_verdict(stored.record.node)
        return convert.node_health(stored.record, stored.row, live, self.clock.now().timestamp())

    async def _budget(self, budget: Budget) -> pb.BudgetStatus:
        nodes = len(await self.records.all())
        return convert.budget_status(budget, self.policy.budget, nodes, self.clock.now().timestamp())

    def _rules_of(self, text: str) -> RuleSet:
        if not text:
            return self.rules.rules
        try:
            return parse_rules(text)
        except RulesFault as fault:
            violations = [("rules_yaml", line) for line in str(fault).splitlines()]
            raise InvalidArgument(f"rules_yaml: {fault}", reason="RULES_INVALID", violations=violations) from None


def _need(**fields: str) -> None:
    missing = [field for field, value in fields.items() if not value]
    if missing:
        raise InvalidArgument(
            f"{' and '.join(missing)} must be given",
            reason="FIELD_MISSING",
            violations=[(field, "must be given") for field in missing],
        )
