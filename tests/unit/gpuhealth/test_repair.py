"""From a quarantined node back: drained, repaired, tested, released; or a person is called."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from longhaul_gpuhealth.domain.budget import Budget, Fleet
from longhaul_gpuhealth.domain.burnin import BurnIn, Measurement, below_peers
from longhaul_gpuhealth.domain.decision import Situation, decide
from longhaul_gpuhealth.domain.model import Finding, HealthAction, HealthState, NodeVerdict, Remedy, Severity
from longhaul_gpuhealth.domain.record import NodeFacts, NodeRecord, RepairStage
from longhaul_gpuhealth.domain.repair import RepairPolicy, Step, repair_failed, repaired, request_burn_in
from longhaul_gpuhealth.domain.verbs import Policy, acknowledge

START = 1_000_000.0
FATAL = Finding(
    "xid-fatal", "1", Severity.CRITICAL, HealthAction.DRAIN, 0, "GPU-x", "XID 48", START, START, remedy=Remedy.RESET
)
REPAIRS = RepairPolicy(hooks=frozenset({Remedy.RESET}), burn_in=True)


@dataclass
class Story:
    """One node that goes out and comes back."""

    policy: Policy = field(default_factory=lambda: Policy(repair=REPAIRS))
    record: NodeRecord = field(default_factory=lambda: NodeRecord("n0", HealthState.HEALTHY, START))
    budget: Budget = field(default_factory=Budget)
    now: float = START
    told: list[str] = field(default_factory=list)

    def see(self, *findings: Finding, after: float = 1.0, idle: bool = False) -> None:
        self.now += after
        state = HealthState.FATAL if findings else HealthState.HEALTHY
        session = self.record.quarantine.session if self.record.quarantine else ""
        facts = NodeFacts(not session, False, session, "http://x", idle)
        verdict = NodeVerdict("n0", state, (), findings, self.now)
        decision = decide(self.record, self.budget, Situation(verdict, facts, Fleet(10), self.now, "s"), self.policy)
        self.record, self.budget = decision.record, decision.budget
        self.told += [one.type for one in decision.occurrences]
        if self.record.quarantine and not self.record.quarantine.marked:
            self.record = replace(self.record, quarantine=replace(self.record.quarantine, marked=True))

    @property
    def stage(self) -> RepairStage | None:
        return self.record.repair.stage if self.record.repair else None

    def drain(self) -> None:
        self.record = acknowledge(self.record, now=self.now, by="training", message="")

    def hook_done(self) -> Step:
        advance = repaired(self.record, "s", self.policy.repair, self.now)
        self.record = advance.record
        return advance.step

    def report(self, *, passed: bool) -> None:
        assert self.record.burn_in is not None
        burn_in = replace(self.record.burn_in, reported_at=self.now, passed=passed, message="" if passed else "slow")
        self.record = replace(self.record, burn_in=burn_in)


@pytest.fixture
def story() -> Story:
    told = Story()
    told.see(FATAL)
    told.see(FATAL)
    return told


def test_repair_waits_for_the_drain_then_goes_all_the_way_back(story: Story) -> None:
    assert story.stage is RepairStage.DRAINING
    story.see(FATAL)
    assert story.stage is RepairStage.DRAINING
    story.drain()
    story.see(FATAL)
    assert story.stage is RepairStage.REPAIRING
    assert story.hook_done() is Step.FORGET
    assert story.stage is RepairStage.TESTING
    assert story.record.burn_in is not None
    story.see()
    assert story.record.quarantine is not None
    story.report(passed=True)
    story.see()
    assert story.record.quarantine is None
    assert story.record.releasing == "s"
    assert story.record.state is HealthState.RECOVERING
    assert story.told.count("QUARANTINED") == 1
    assert story.record.burn_in is not None, "the good result is kept for the peers"


def test_idle_node_needs_no_acknowledgement(story: Story) -> None:
    story.see(FATAL, idle=True)
    assert story.stage is RepairStage.REPAIRING


def test_failed_burn_in_keeps_the_node_out_for_a_person(story: Story) -> None:
    story.see(FATAL, idle=True)
    story.hook_done()
    story.report(passed=False)
    story.see()
    assert story.stage is RepairStage.HUMAN
    assert "HUMAN_NEEDED" in story.told
    story.see()
    assert story.record.quarantine is not None
    again = request_burn_in(story.record, "s2", "ada", story.now)
    assert again.repair is not None
    assert again.repair.stage is RepairStage.TESTING
    story.record = again
    story.report(passed=True)
    story.see()
    assert story.record.quarantine is None


def test_fault_that_returns_during_the_test_calls_a_person(story: Story) -> None:
    story.see(FATAL, idle=True)
    story.hook_done()
    story.report(passed=True)
    story.see(FATAL)
    assert story.stage is RepairStage.HUMAN


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"remedy": Remedy.REPLACE}, "no hook does a replace"),
        ({"drained": False, "after": 4000.0}, "work did not leave"),
        ({"hook": False, "after": 2000.0}, "the hook did not finish"),
        ({"hook": True, "after": 4000.0}, "no burn-in was reported"),
        ({"fails": True}, "the hook failed: no power"),
        ({"quarantines": 5}, "quarantined 5 times in seven days"),
    ],
)
def test_what_cannot_go_on_by_itself_calls_a_person(change: dict[str, object], says: str) -> None:
    story = Story()
    finding = replace(FATAL, remedy=change.get("remedy", Remedy.RESET))
    story.see(finding)
    story.see(finding)
    if "quarantines" in change:
        story.record = replace(story.record, quarantines=(story.now,) * 5)
    if change.get("drained", True):
        story.drain()
    story.see(finding)
    if change.get("hook"):
        story.hook_done()
    if change.get("fails"):
        story.record = repair_failed(story.record, "s", "no power", story.now).record
    story.see(*([] if change.get("hook") else [finding]), after=float(str(change.get("after", 1.0))))
    assert story.record.repair is not None
    assert story.record.repair.stage is RepairStage.HUMAN
    assert says in story.record.repair.message
    assert story.record.quarantine is not None


def test_answer_of_an_older_session_changes_nothing(story: Story) -> None:
    story.see(FATAL, idle=True)
    before = story.record
    assert repaired(before, "older", REPAIRS, story.now).record == before
    assert repair_failed(before, "older", "x", story.now).record == before


def test_without_hooks_and_burn_in_a_person_releases() -> None:
    story = Story(policy=Policy())
    story.see(FATAL)
    story.see(FATAL, idle=True)
    assert story.record.repair is None


def test_failed_burn_in_of_a_node_in_use_takes_it_out() -> None:
    story = Story(policy=Policy())
    story.see()
    story.record = request_burn_in(story.record, "b", "ada", story.now)
    story.see()
    assert story.record.quarantine is None
    story.report(passed=False)
    story.see()
    assert story.record.quarantine is not None
    assert "its burn-in failed" in story.record.quarantine.cause


def measured(value: float, gpu: int = 0) -> Measurement:
    return Measurement(gpu, "bf16_tflops", value, "TFLOPS")


def test_figures_more_than_a_tenth_below_the_best_peer_fail() -> None:
    peer = BurnIn("p", 0.0, "x", 1.0, True, "", "NVIDIA H100", (measured(700.0),))
    assert below_peers("NVIDIA H100", [measured(631.0)], [peer]) == []
    assert "10% below the best peer's 700.0" in below_peers("NVIDIA H100", [measured(629.0)], [peer])[0]
    assert below_peers("NVIDIA H200", [measured(500.0)], [peer]) == [], "another model"
    assert below_peers("NVIDIA H100", [measured(500.0)], [replace(peer, passed=False)]) == [], "no good peer"
    assert len(below_peers("NVIDIA H100", [measured(700.0, 0), measured(500.0, 1)], [])) == 1, "its own other GPU"
    assert below_peers("cpu", [measured(1.0, 0), measured(0.5, 1)], []) == []
