"""Calls the hooks that repair nodes, and says what follows for the record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from longhaul_core.errors import LonghaulError
from longhaul_core.logging import get_logger

from longhaul_gpuhealth.adapters.hooks import Hook, HookAnswer, HookCall, HookState
from longhaul_gpuhealth.domain.budget import Budget
from longhaul_gpuhealth.domain.model import Remedy
from longhaul_gpuhealth.domain.record import NodeRecord, Repair
from longhaul_gpuhealth.domain.repair import Step, repair_failed, repaired
from longhaul_gpuhealth.domain.verbs import SERVICE_AUTHOR, Decision, Policy, release
from longhaul_gpuhealth.monitor.measures import Measures
from longhaul_gpuhealth.monitor.poller import SteadyTime

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RepairStep:
    """A change of the record, if any; when to look at the hook again, None: it has ended."""

    change: Callable[[NodeRecord, Budget], Decision] | None
    again_seconds: float | None


@dataclass(frozen=True, slots=True)
class Repairs:
    """Advances repairs by their hooks."""

    hooks: Mapping[Remedy, Hook]
    policy: Policy
    measures: Measures
    time: SteadyTime
    poll_seconds: float

    async def advance(self, record: NodeRecord, repair: Repair) -> RepairStep:
        """Call the hook, or look how far it is; one that cannot be called is called again until its time is over."""
        hook = self.hooks.get(repair.remedy)
        if hook is None:
            return RepairStep(None, self.poll_seconds)
        cause = record.quarantine.cause if record.quarantine is not None else ""
        uuids = tuple(one.gpu_uuid for one in record.findings if one.takes_node_out and one.gpu_uuid)
        answer = await _answer(hook, HookCall(record.node, repair.session, repair.remedy, cause, uuids))
        self.measures.actions.labels(repair.remedy.name.lower(), answer.state).inc()
        if answer.state is HookState.UNDER_WAY:
            return RepairStep(self._note(record, repair, answer.message), self.poll_seconds)
        log.info("repair ended", node=record.node, remedy=repair.remedy.name, state=answer.state)
        return RepairStep(self._end(repair, answer), None)

    def _note(
        self, record: NodeRecord, repair: Repair, message: str
    ) -> Callable[[NodeRecord, Budget], Decision] | None:
        """Keep what stands in the hook's way, for people to see."""
        if message == repair.message:
            return None
        if message:
            log.warning("repair hook not answering", node=record.node, remedy=repair.remedy.name, answer=message)

        def note(current: NodeRecord, budget: Budget) -> Decision:
            if current.repair is None or current.repair.session != repair.session:
                return Decision(current, budget)
            return Decision(replace(current, repair=replace(current.repair, message=message)), budget)

        return note

    def _end(self, repair: Repair, answer: HookAnswer) -> Callable[[NodeRecord, Budget], Decision]:
        now = self.time.now()

        def end(record: NodeRecord, budget: Budget) -> Decision:
            if answer.state is HookState.FAILED:
                advance = repair_failed(record, repair.session, answer.message, now)
            else:
                advance = repaired(record, repair.session, self.policy.repair, now)
            if advance.step is not Step.RELEASE:
                return Decision(advance.record, budget, advance.told)
            freed = release(advance.record, budget, self.policy, now=now, reason="it was repaired", by=SERVICE_AUTHOR)
            return replace(freed, occurrences=(*advance.told, *freed.occurrences))

        return end


async def _answer(hook: Hook, call: HookCall) -> HookAnswer:
    try:
        return await hook.advance(call)
    except LonghaulError as error:
        return HookAnswer(HookState.UNDER_WAY, f"{error.reason}: {error}")
