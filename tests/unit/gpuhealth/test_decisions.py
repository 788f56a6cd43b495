"""Decisions and the budget: pure, level-based, idempotent."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longhaul_gpuhealth.domain.budget import Budget, BudgetPolicy, Fleet, Refusal
from longhaul_gpuhealth.domain.decision import Situation, decide
from longhaul_gpuhealth.domain.model import Finding, HealthAction, HealthState, NodeVerdict, Severity
from longhaul_gpuhealth.domain.record import NodeFacts, NodeRecord, Origin, Override
from longhaul_gpuhealth.domain.verbs import Decision, Policy, acknowledge, release

START = 1_000_000.0
POLICY = Policy()


def finding(
    rule: str = "xid-off-bus", *, action: HealthAction = HealthAction.ISOLATE, computes: bool = False
) -> Finding:
    return Finding(rule, "1", Severity.CRITICAL, action, 0, "GPU-x", "XID 79 on GPU 0", START, START, computes=computes)


@dataclass
class Story:
    """One node's record over time."""

    record: NodeRecord
    budget: Budget = field(default_factory=Budget)
    now: float = START
    nodes: int = 10
    session_on_node: str = ""
    opted_out: bool = False
    policy: Policy = POLICY
    steps: int = 0

    def see(self, *findings: Finding, after: float = 1.0) -> Decision:
        self.now += after
        self.steps += 1
        state = HealthState.FATAL if findings else HealthState.HEALTHY
        verdict = NodeVerdict(self.record.node, state, (), findings, self.now)
        facts = NodeFacts(not self.session_on_node, self.opted_out, self.session_on_node, "http://x")
        situation = Situation(verdict, facts, Fleet(self.nodes), self.now, f"session-{self.steps}")
        decision = decide(self.record, self.budget, situation, self.policy)
        self.record, self.budget = decision.record, decision.budget
        return decision

    def mark(self) -> None:
        assert self.record.quarantine is not None
        self.session_on_node = self.record.quarantine.session
        self.record = replace(self.record, quarantine=replace(self.record.quarantine, marked=True))

    def unmark(self) -> None:
        self.session_on_node = ""
        self.record = replace(self.record, releasing="")

    def types(self, decision: Decision) -> list[str]:
        return [told.type for told in decision.occurrences]


@pytest.fixture
def story() -> Story:
    return Story(NodeRecord("n0", HealthState.HEALTHY, START))


def test_fatal_finding_begins_one_quarantine_with_its_drain(story: Story) -> None:
    decision = story.see(finding())
    assert story.types(decision) == ["RULE_FIRED", "QUARANTINED", "DRAIN_REQUESTED", "STATE_CHANGED"]
    quarantine, drain = story.record.quarantine, story.record.drain
    assert quarantine is not None
    assert drain is not None
    assert (quarantine.origin, quarantine.marked) == (Origin.VERDICT, False)
    assert drain.session == quarantine.session
    assert not drain.computes
    for _ in range(3):
        again = story.see(finding())
        assert again.occurrences == ()
        assert again.record.quarantine == quarantine
    story.mark()
    assert story.see(finding()).record.drain == drain


def test_decision_repeated_with_nothing_new_changes_nothing_material(story: Story) -> None:
    story.see()
    before, budget = story.record.material, story.budget
    decision = story.see(after=100)
    assert (decision.record.material, decision.budget, decision.occurrences) == (before, budget, ())


def test_marks_put_on_late_by_a_released_session_are_taken_off(story: Story) -> None:
    story.see(finding())
    story.mark()
    late = story.session_on_node
    decision = release(story.record, story.budget, POLICY, now=story.now, reason="fixed", by="ada")
    story.record, story.budget = decision.record, decision.budget
    story.unmark()
    story.see()
    story.session_on_node = late
    assert story.types(story.see()) == ["LATE_MARKS"]
    assert story.record.releasing == late
    story.unmark()
    story.session_on_node = "of-another-installation"
    story.see()
    assert story.record.releasing == ""


def test_gpus_that_compute_drain_by_checkpoint(story: Story) -> None:
    story.see(finding("ecc-double-bit", action=HealthAction.DRAIN, computes=True))
    assert story.record.drain is not None
    assert story.record.drain.computes


def test_released_node_recovers_and_may_be_taken_out_again(story: Story) -> None:
    story.see(finding())
    story.mark()
    decision = release(story.record, story.budget, POLICY, now=story.now, reason="fixed", by="ada")
    story.record, story.budget = decision.record, decision.budget
    assert (story.record.state, story.record.drain) == (HealthState.RECOVERING, None)
    assert story.record.releasing == story.session_on_node
    story.see(finding())
    assert story.record.quarantine is None, "not while the old marks are still on the node"
    story.unmark()
    story.see()
    assert story.record.state is HealthState.RECOVERING
    story.see(after=POLICY.recovery_seconds)
    assert story.record.state is HealthState.HEALTHY
    again = story.see(finding(), after=POLICY.budget.window_seconds)
    assert "QUARANTINED" in story.types(again)
    assert story.record.recent_quarantines(story.now) == 2


def test_fifth_quarantine_in_a_week_calls_for_a_person(story: Story) -> None:
    for times in range(1, 6):
        decision = story.see(finding(), after=3600)
        assert ("REPEAT_OFFENDER" in story.types(decision)) is (times == 5)
        story.mark()
        decision = release(story.record, story.budget, POLICY, now=story.now, reason="fixed", by="ada")
        story.record, story.budget = decision.record, decision.budget
        story.unmark()
        story.see(after=3600)


def test_opt_out_and_dry_run_withhold_and_tell_once(story: Story) -> None:
    story.opted_out = True
    assert story.types(story.see(finding()))[-2:] == ["QUARANTINE_WITHHELD", "STATE_CHANGED"]
    assert story.see(finding()).occurrences == ()
    assert story.record.waiting == "OPTED_OUT"
    assert story.budget == Budget()
    story.opted_out = False
    story.policy = Policy(dry_run=True)
    assert story.types(story.see(finding())) == ["QUARANTINE_WITHHELD"]
    assert story.record.waiting == "DRY_RUN"
    story.policy = POLICY
    story.see(finding())
    assert (story.record.state, story.record.waiting) == (HealthState.QUARANTINED, "")


def test_finding_that_clears_while_it_waits_withdraws_the_demand(story: Story) -> None:
    story.budget = Budget(out=("a", "b", "c", "d"))
    story.see(finding())
    assert story.budget.waiting == ("n0",)
    assert story.record.waiting == "BUDGET_EXHAUSTED"
    story.see()
    assert story.budget.waiting == ()
    assert story.record.waiting == ""


def test_healthy_override_ends_quarantine_and_expires(story: Story) -> None:
    story.see(finding())
    story.mark()
    story.record = replace(story.record, override=Override(HealthState.HEALTHY, "known", "ada", story.now + 10))
    assert "RELEASED" in story.types(story.see(finding()))
    story.unmark()
    story.see(finding())
    assert story.record.quarantine is None
    ended = story.see(finding(), after=POLICY.budget.window_seconds)
    assert story.types(ended)[0] == "OVERRIDE_ENDED"
    assert story.record.quarantine is not None


def test_acknowledgement_is_kept_as_first_said(story: Story) -> None:
    story.see(finding())
    first = acknowledge(story.record, now=story.now, by="training", message="moved")
    second = acknowledge(first, now=story.now + 1, by="training", message="again")
    assert second == first
    assert first.drain is not None
    assert first.drain.acknowledgement == "moved"


SMALL = BudgetPolicy(window_seconds=300, window_share=0.2, total_share=0.4, breaker_share=0.5)


def ask_many(policy: BudgetPolicy, nodes: int, count: int, every: float) -> tuple[Budget, list[Refusal | None]]:
    budget, answers = Budget(), []
    for index in range(count):
        budget, refusal = budget.ask(policy, f"n{index}", Fleet(nodes), START + index * every)
        answers.append(refusal)
    return budget, answers


def test_budget_grants_its_share_and_the_breaker_stops_a_storm() -> None:
    budget, answers = ask_many(SMALL, 20, 12, 1.0)
    assert answers[:4] == [None] * 4
    assert answers[4:10] == [Refusal.BUDGET_EXHAUSTED] * 6
    assert answers[10:] == [Refusal.BREAKER_OPEN] * 2
    assert len(budget.waiting) == 8
    later, refusal = budget.ask(SMALL, "n4", Fleet(20), START + 10_000)
    assert refusal is Refusal.BREAKER_OPEN
    reset = later.reset_breaker()
    assert reset.ask(SMALL, "n4", Fleet(20), START + 10_001)[1] is None


def test_budget_of_slow_failures_ends_at_the_share_of_all_nodes() -> None:
    budget, answers = ask_many(SMALL, 20, 10, 301.0)
    assert answers == [None] * 8 + [Refusal.BUDGET_EXHAUSTED] * 2
    assert budget.breaker_opened_at is None
    back = budget.withdraw("n0")
    assert back.ask(SMALL, "n8", Fleet(20), START + 5000)[1] is None


def test_small_cluster_may_lose_one_node_and_no_more() -> None:
    budget, answers = ask_many(SMALL, 3, 3, 1.0)
    assert answers == [None, Refusal.BUDGET_EXHAUSTED, Refusal.BREAKER_OPEN]
    assert budget.out == ("n0",)


def test_forced_demand_passes_budget_and_breaker() -> None:
    budget, _ = ask_many(SMALL, 3, 3, 1.0)
    assert budget.ask(SMALL, "n1", Fleet(3), START + 5, force=True)[1] is None


def test_asking_again_counts_once() -> None:
    budget = Budget(out=("a", "b"))
    for second in range(50):
        budget, refusal = budget.ask(SMALL, "n0", Fleet(4), START + second)
        assert refusal is Refusal.BUDGET_EXHAUSTED
    assert budget.waiting == ("n0",)
    assert budget.breaker_opened_at is None


@given(
    st.integers(1, 60),
    st.lists(st.tuples(st.integers(0, 59), st.floats(0, 400), st.booleans()), max_size=120),
)
def test_budget_is_never_exceeded(nodes: int, steps: list[tuple[int, float, bool]]) -> None:
    budget, now = Budget(), START
    granted: list[float] = []
    for index, wait, comes_back in steps:
        now += wait
        node = f"n{index % nodes}"
        if comes_back:
            budget = budget.withdraw(node)
        elif node not in budget.out:
            budget, refusal = budget.ask(SMALL, node, Fleet(nodes), now)
            granted += [now] if refusal is None else []
        assert len(budget.out) <= SMALL.limit_in_total(nodes)
        in_window = sum(time > now - SMALL.window_seconds for time in granted)
        assert in_window <= SMALL.limit_in_window(nodes)
