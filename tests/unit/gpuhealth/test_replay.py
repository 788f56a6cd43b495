"""Recorded samples through a rule set."""

from __future__ import annotations

from typing import Any

from longhaul_gpuhealth.domain.model import HealthState, Sample
from longhaul_gpuhealth.domain.replay import Replay, replay
from longhaul_gpuhealth.domain.rulefile import default_rules_text, parse_rules
from longhaul_gpuhealth.domain.rules import RuleSet
from longhaul_gpuhealth.domain.verbs import Policy

XID, COUNT, TEMP = "DCGM_FI_DEV_XID_ERRORS", "DCGM_EXP_XID_ERRORS_COUNT", "DCGM_FI_DEV_GPU_TEMP"
START = 1_000_000.0


def run(samples: list[Sample], rules: RuleSet, nodes: int = 0) -> Replay:
    return replay(samples, rules, Policy(), silence_seconds=60, nodes=nodes)


def steady(
    node: str, gpus: int, *, seconds: int, signal: str = XID, value: float = 0.0, start: float = START
) -> list[Sample]:
    return [Sample(node, gpu, signal, value, start + second) for second in range(seconds) for gpu in range(gpus)]


def test_single_fatal_xid_takes_its_node_out(rules: Any) -> None:
    samples = steady("n0", 8, seconds=5) + steady("n1", 8, seconds=5)
    samples += [Sample("n0", 3, XID, 79, START + 10), Sample("n1", 3, XID, 0, START + 10)]
    outcome = run(samples, rules, nodes=10)
    assert outcome.quarantined == ["n0"]
    assert outcome.states == {"n0": HealthState.QUARANTINED, "n1": HealthState.HEALTHY}
    assert [(one.rule, one.gpu) for one in outcome.findings] == [("xid-off-bus", 3)]


def test_crash_of_a_job_on_64_gpus_takes_nothing_out(rules: Any) -> None:
    samples: list[Sample] = []
    for node in range(8):
        samples += steady(f"n{node}", 8, seconds=3)
        for gpu in range(8):
            for step, code in enumerate((13, 31, 43, 45)):
                samples.append(Sample(f"n{node}", gpu, XID, code, START + 10 + step))
    outcome = run(samples, rules, nodes=100)
    assert outcome.quarantined == []
    assert {one.rule for one in outcome.findings} == {"xid-application", "xid-teardown"}


def test_driver_upgrade_that_makes_every_node_look_bad_is_stopped(rules: Any) -> None:
    samples: list[Sample] = []
    for node in range(50):
        samples += steady(f"n{node:02}", 2, seconds=3)
        samples += [Sample(f"n{node:02}", gpu, XID, 119, START + 10 + node / 10) for gpu in range(2)]
    outcome = run(samples, rules)
    assert len(outcome.quarantined) == 10
    assert any(told.type == "BREAKER_OPENED" for _, _, told in outcome.occurrences)


def test_exporter_restart_with_counter_reset_takes_nothing_out(rules: Any) -> None:
    counter = "DCGM_FI_DEV_ECC_SBE_AGG_TOTAL"
    values = [900, 901, 901, 0, 0, 902, 903]
    samples = [Sample("n0", 0, counter, value, START + 10 * index) for index, value in enumerate(values)]
    outcome = run(samples, rules)
    assert (outcome.quarantined, outcome.findings) == ([], [])


def test_other_rules_give_another_outcome(rules: Any) -> None:
    samples = [*steady("n0", 1, seconds=3), Sample("n0", 0, COUNT, 1, START + 10, {"xid": "109"})]
    assert run(samples, rules, nodes=4).quarantined == []
    before, mark, after = default_rules_text().partition("when: {codes: [109], hold: 10m}\n")
    assert mark
    stricter = (
        before
        + mark
        + after.replace("severity: warning", "severity: critical", 1).replace(
            "action: restart_application", "action: isolate", 1
        )
    )
    assert run(samples, parse_rules(stricter), nodes=4).quarantined == ["n0"]


def test_samples_in_any_order_give_the_same_outcome(rules: Any) -> None:
    samples = steady("n0", 2, seconds=20, signal=TEMP, value=95) + steady("n1", 2, seconds=20, signal=TEMP, value=50)
    assert (
        run(samples, rules).states
        == run(samples[::-1], rules).states
        == {
            "n0": HealthState.DEGRADED,
            "n1": HealthState.HEALTHY,
        }
    )
