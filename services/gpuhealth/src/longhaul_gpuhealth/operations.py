"""What operators and training ask for, as changes of records; the monitor carries them out."""

from __future__ import annotations

from dataclasses import dataclass, replace

from longhaul_core.clock import Clock
from longhaul_core.errors import FailedPrecondition, ResourceExhausted
from longhaul_core.ids import new_uid
from longhaul_core.logging import get_logger

from longhaul_gpuhealth.adapters.records import NodeRecords, StoredNode
from longhaul_gpuhealth.domain.budget import Budget, fleet_around
from longhaul_gpuhealth.domain.burnin import PEER_SHARE, Measurement, below_peers
from longhaul_gpuhealth.domain.record import NodeRecord, Occurrence, Override
from longhaul_gpuhealth.domain.repair import request_burn_in
from longhaul_gpuhealth.domain.verbs import Decision, Policy, acknowledge, quarantine, release

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Operations:
    """The verbs of the service."""

    records: NodeRecords
    clock: Clock
    policy: Policy
    burn_in_peer_share: float = PEER_SHARE

    async def quarantine(self, node: str, *, reason: str, author: str, force: bool) -> StoredNode:
        """Take a node out. Raises `FailedPrecondition` (OPTED_OUT), `ResourceExhausted` (BUDGET_EXHAUSTED)."""
        records = [stored.record for stored in (await self.records.all()).values()]
        now = self._now()
        session = new_uid()

        def change(record: NodeRecord, budget: Budget) -> Decision:
            if record.quarantine is not None:
                return Decision(record, budget)
            if record.opted_out:
                raise FailedPrecondition(
                    f"node {node} is opted out of GPU health",
                    reason="OPTED_OUT",
                    action="remove its label longhaul.dev/gpuhealth=ignore first",
                )
            fleet = fleet_around(record.pool, [one.pool for one in records])
            budget, refusal = budget.ask(self.policy.budget, node, fleet, now, force=force)
            if refusal is not None:
                raise ResourceExhausted(
                    f"node {node} may not be taken out now: {refusal}",
                    reason="BUDGET_EXHAUSTED",
                    metadata={"refusal": refusal, "nodes": str(fleet.nodes)},
                    action="wait for the window to pass, reset the breaker, or force it",
                )
            return quarantine(record, budget, self.policy, now=now, session=session, cause=reason, by=author)

        return await self.records.change(node, change)

    async def release(self, node: str, *, reason: str, author: str, session: str) -> StoredNode:
        """Put a node back. Raises `FailedPrecondition` (STALE_SESSION)."""

        def change(record: NodeRecord, budget: Budget) -> Decision:
            current = record.quarantine.session if record.quarantine else record.releasing
            if session and current and session != current:
                raise _stale(node, session, current)
            return release(record, budget, self.policy, now=self._now(), reason=reason, by=author)

        return await self.records.change(node, change)

    async def override(self, node: str, override: Override | None) -> StoredNode:
        """Overrule the verdict, or end that."""

        def change(record: NodeRecord, budget: Budget) -> Decision:
            if record.override == override:
                return Decision(record, budget)
            if override is None:
                told = Occurrence("OVERRIDE_ENDED", "OPERATOR", "the override was taken back")
            else:
                message = f"{override.author} overrules the verdict: {override.state}, {override.reason}"
                told = Occurrence("OVERRIDE_SET", "OPERATOR", message)
            return Decision(replace(record, override=override), budget, (told,))

        return await self.records.change(node, change)

    async def acknowledge_drain(self, node: str, *, session: str, by: str, message: str) -> StoredNode:
        """Note what became of a drain request. Raises `FailedPrecondition` (STALE_SESSION)."""

        def change(record: NodeRecord, budget: Budget) -> Decision:
            current = record.drain.session if record.drain else ""
            if session != current:
                raise _stale(node, session, current)
            changed = acknowledge(record, now=self._now(), by=by, message=message)
            if changed == record:
                return Decision(record, budget)
            return Decision(changed, budget, (Occurrence("DRAIN_ACKNOWLEDGED", by, message),))

        return await self.records.change(node, change)

    async def request_burn_in(self, node: str, author: str) -> StoredNode:
        """Ask for a burn-in; a node that is out for repair is released if it passes."""
        session, now = new_uid(), self._now()

        def change(record: NodeRecord, budget: Budget) -> Decision:
            asked = request_burn_in(record, session, author, now)
            if asked == record:
                return Decision(record, budget)
            return Decision(asked, budget, (Occurrence("BURN_IN_REQUESTED", author, "a burn-in is asked for"),))

        return await self.records.change(node, change)

    async def report_burn_in(
        self, node: str, *, session: str, passed: bool, message: str, device: str, measurements: tuple[Measurement, ...]
    ) -> StoredNode:
        """Judge a burn-in against the peers and note it. Raises `FailedPrecondition` (STALE_SESSION)."""
        others = (stored.record for name, stored in (await self.records.all()).items() if name != node)
        peers = [other.burn_in for other in others if other.burn_in is not None]
        slow = below_peers(device, measurements, peers, self.burn_in_peer_share)

        def change(record: NodeRecord, budget: Budget) -> Decision:
            asked = record.burn_in
            if asked is None or asked.session != session:
                raise _stale(node, session, "" if asked is None else asked.session)
            if asked.reported_at is not None:
                return Decision(record, budget)
            faults = [one for one in (message if not passed else "", *slow) if one]
            done = replace(
                asked,
                reported_at=self._now(),
                passed=passed and not slow,
                message="; ".join(faults) or message,
                device=device,
                measurements=measurements,
            )
            told = Occurrence("BURN_IN_REPORTED", "PASSED" if done.passed else "FAILED", done.message)
            return Decision(replace(record, burn_in=done), budget, (told,))

        return await self.records.change(node, change)

    async def reset_breaker(self, author: str) -> Budget:
        """Close the breaker by hand."""
        log.warning("breaker reset", author=author)
        return await self.records.change_budget(Budget.reset_breaker)

    def _now(self) -> float:
        return self.clock.now().timestamp()


def _stale(node: str, session: str, current: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"session {session} of node {node} is over",
        reason="STALE_SESSION",
        metadata={"node": node, "session": session, "current_session": current},
        action="read the node again",
    )
