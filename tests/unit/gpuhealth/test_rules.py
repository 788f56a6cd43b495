"""Every shipped rule, on both sides of its edge, through real exporter text."""

from __future__ import annotations

from typing import Any

import pytest
from longhaul_gpuhealth.domain.model import HealthAction, HealthState, Job, Severity

HEALTHY, SUSPECT, DEGRADED, FATAL = (
    HealthState.HEALTHY,
    HealthState.SUSPECT,
    HealthState.DEGRADED,
    HealthState.FATAL,
)
WARN, ERROR, CRITICAL, INFO = Severity.WARNING, Severity.ERROR, Severity.CRITICAL, Severity.INFO
RESTART, DIAGNOSE, EVENT = HealthAction.RESTART_APPLICATION, HealthAction.DIAGNOSE, HealthAction.EVENT
DRAIN, ISOLATE = HealthAction.DRAIN, HealthAction.ISOLATE
FATAL_XIDS = (46, 48, 62, 95, 119, 120, 140, 143)
NVLINK_XIDS = (74, *range(144, 151))


@pytest.mark.parametrize(
    ("code", "rule", "severity", "action", "state"),
    [
        *((code, "xid-application", WARN, RESTART, SUSPECT) for code in (13, 31)),
        *((code, "xid-teardown", INFO, EVENT, HEALTHY) for code in (43, 45)),
        *((code, "xid-remap", INFO, EVENT, HEALTHY) for code in (63, 92)),
        (94, "xid-contained", WARN, RESTART, SUSPECT),
        *((code, "xid-fatal", CRITICAL, DRAIN, FATAL) for code in FATAL_XIDS),
        (64, "xid-remap-failed", CRITICAL, ISOLATE, FATAL),
        *((code, "xid-nvlink", CRITICAL, DRAIN, FATAL) for code in NVLINK_XIDS),
        (79, "xid-off-bus", CRITICAL, ISOLATE, FATAL),
        (109, "xid-context-timeout", WARN, RESTART, SUSPECT),
    ],
)
def test_xid_fires_its_rule_by_gauge_and_by_counter(
    rules: Any, bench: Any, code: int, rule: str, severity: Severity, action: HealthAction, state: HealthState
) -> None:
    bench.scrape()
    bench.scrape({"DCGM_FI_DEV_XID_ERRORS": code})
    bench.scrape(node="n1")
    bench.scrape(node="n1", xids={code: 1})
    for node in ("n0", "n1"):
        finding = bench.fired(rule, node)
        assert (finding.severity, finding.action, finding.gpu) == (severity, action, 0)
        assert f"XID {code} on GPU 0" in finding.message
        assert bench.state(node) is state
        assert finding.takes_node_out is (state is FATAL)
    assert bench.engine.verdict("n0", bench.now).gpus[1].state is HEALTHY


@pytest.mark.parametrize("code", [1, 8, 44, 78, 80, 151])
def test_xid_without_a_rule_takes_nothing_out(bench: Any, code: int) -> None:
    bench.scrape()
    assert bench.scrape({"DCGM_FI_DEV_XID_ERRORS": code}, xids={code: 3}).findings == ()


@pytest.mark.parametrize(
    ("signal", "rule", "below", "above", "severity"),
    [
        ("DCGM_FI_DEV_ROW_REMAP_FAILURE", "row-remap-failure", 0, 1, CRITICAL),
        ("DCGM_FI_DEV_ROW_REMAP_PENDING", "row-remap-pending", 0, 1, INFO),
        ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "ecc-double-bit", 0, 1, ERROR),
        ("DCGM_FI_DEV_RETIRED_SBE", "retired-pages-high", 50, 51, WARN),
        ("DCGM_FI_DEV_RETIRED_SBE", "retired-pages-full", 63, 64, ERROR),
        ("DCGM_FI_DEV_GPU_TEMP", "temperature-high", 83, 84, WARN),
        ("DCGM_FI_DEV_GPU_TEMP", "temperature-critical", 90, 91, ERROR),
        ("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "hardware-slowdown", 0x04 | 0x10 | 0x100, 0x08, ERROR),
        ("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "hardware-slowdown", 0x01, 0x20 | 0x04, ERROR),
        ("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", "hardware-slowdown", 0x02, 0x40, ERROR),
        ("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", "hardware-slowdown", 0x200, 0x80, ERROR),
    ],
)
def test_level_rule_fires_above_its_edge_only(
    bench: Any, signal: str, rule: str, below: float, above: float, severity: Severity
) -> None:
    bench.scrape({signal: below})
    assert bench.fired(rule) is None
    bench.scrape({signal: above})
    finding = bench.fired(rule)
    assert finding.severity is severity
    assert [(sample.signal, sample.value) for sample in finding.evidence] == [(signal, above)]


@pytest.mark.parametrize(
    ("signal", "rule", "allowed", "seconds", "severity"),
    [
        ("DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", "ecc-single-bit-rate", 100, 60, WARN),
        ("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "pcie-replay-rate", 50, 60, WARN),
        ("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "pcie-replay-rate-high", 200, 60, ERROR),
        ("DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", "nvlink-errors", 0, 60, ERROR),
        ("DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL", "nvlink-errors", 0, 60, ERROR),
        ("DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", "nvlink-errors", 0, 60, ERROR),
        ("DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", "nvlink-errors", 0, 60, ERROR),
    ],
)
def test_rate_rule_counts_growth_within_its_window_only(
    bench: Any, signal: str, rule: str, allowed: int, seconds: float, severity: Severity
) -> None:
    start = 5000
    bench.scrape({signal: start})
    bench.scrape({signal: start + allowed})
    assert bench.fired(rule) is None
    bench.scrape({signal: start + 2 * allowed}, after=seconds)
    assert bench.fired(rule) is None
    bench.scrape({signal: start + 2 * allowed + 1}, after=1)
    assert bench.fired(rule).severity is severity


def test_infiniband_links_are_judged_for_the_node_as_a_whole(bench: Any) -> None:
    line = 'node_infiniband_link_downed_total{{device="mlx5_0",port="1"}} {}\n'
    for count in (7, 8, 9, 10):
        bench.scrape(extra=line.format(count), after=1800)
    assert bench.fired("infiniband-link-down") is None
    verdict = bench.scrape(extra=line.format(11), after=1800)
    finding = bench.fired("infiniband-link-down")
    assert (finding.gpu, verdict.state) == (-1, DEGRADED)
    assert [gpu.state for gpu in verdict.gpus] == [HEALTHY, HEALTHY]


def test_application_xid_twice_in_a_day_on_one_gpu_asks_for_diagnosis(bench: Any) -> None:
    bench.scrape(xids={13: 0})
    bench.scrape(xids={13: 1})
    bench.scrape(xids={13: 0}, after=3600)
    assert bench.fired("xid-application-repeated") is None
    bench.scrape(xids={13: 0, 31: 1}, after=3600)
    bench.scrape(xids={13: 0, 31: 1}, after=60)
    finding = bench.fired("xid-application-repeated")
    assert finding.action is DIAGNOSE
    assert not finding.takes_node_out


def test_application_xid_twice_in_more_than_a_day_asks_for_nothing(bench: Any) -> None:
    bench.scrape(xids={13: 0})
    bench.scrape(xids={13: 1})
    bench.scrape(xids={13: 0}, after=24 * 3600)
    bench.scrape(xids={13: 1}, after=1)
    bench.scrape(xids={13: 1}, after=60)
    assert bench.fired("xid-application-repeated") is None


def test_application_xid_on_many_gpus_at_once_suspects_the_code(bench: Any) -> None:
    nodes = [f"n{index}" for index in range(8)]
    for node in nodes:
        bench.scrape(xids={13: 0}, node=node, after=0.1)
    for count in (1, 2):
        for node in nodes:
            bench.scrape(xids={13: count}, node=node, after=0.1)
    for node in nodes:
        bench.scrape(xids={13: 2}, node=node, after=20)
    last = nodes[-1]
    assert bench.fired("xid-application", last) is not None
    assert bench.fired("xid-application-repeated", last) is None


def test_fatal_xid_five_times_in_a_day_asks_for_a_person(bench: Any) -> None:
    bench.scrape(xids={79: 0})
    for times in range(1, 6):
        assert bench.fired("xid-fatal-repeated") is None, times
        bench.scrape(xids={79: 0})
        bench.scrape(xids={79: 1}, after=3600)
        bench.engine.release("n0") if times < 5 else None
    assert bench.fired("xid-fatal-repeated").action is HealthAction.HUMAN


def test_burn_in_more_than_a_tenth_below_the_best_peer_fails(bench: Any) -> None:
    for node, value in (("n0", 700.0), ("n1", 631.0), ("n2", 629.0)):
        bench.scrape({"LONGHAUL_BURN_IN_TFLOPS": value}, node=node, gpus=(0,), after=6)
    assert bench.fired("burn-in-slow", "n1") is None
    assert bench.fired("burn-in-slow", "n2").severity is ERROR


def test_straggler_is_found_against_busy_peers_only(bench: Any) -> None:
    def run(minutes: float, slow: float, busy: float) -> None:
        for _ in range(int(minutes * 6)):
            for index in range(9):
                clock = slow if index == 4 else 1975.0 + index
                utilization = busy if index == 4 else 98.0
                bench.scrape(
                    {"DCGM_FI_DEV_SM_CLOCK": clock, "DCGM_FI_DEV_GPU_UTIL": utilization},
                    node=f"n{index}",
                    gpus=(0,),
                    after=0.0001,
                )
            bench.now += 10

    run(6, slow=345.0, busy=0.0)
    assert bench.fired("straggler-clock", "n4") is None
    run(4, slow=1500.0, busy=98.0)
    assert bench.fired("straggler-clock", "n4") is None
    run(2, slow=1500.0, busy=98.0)
    assert bench.fired("straggler-clock", "n4") is not None
    assert all(bench.fired("straggler-clock", f"n{index}") is None for index in range(9) if index != 4)


@pytest.mark.parametrize(
    ("signal", "rule", "normal", "edge", "low", "minutes"),
    [
        ("DCGM_FI_DEV_SM_CLOCK", "straggler-clock-in-run", 1980.0, 1921.0, 1900.0, 2),
        ("DCGM_FI_DEV_POWER_USAGE", "straggler-power-in-run", 650.0, 618.0, 400.0, 5),
        ("DCGM_FI_DEV_GPU_UTIL", "straggler-utilization-in-run", 98.0, 94.0, 60.0, 5),
    ],
)
def test_straggler_within_its_run_is_found_when_it_lasts(
    bench: Any, signal: str, rule: str, normal: float, edge: float, low: float, minutes: float
) -> None:
    def run(for_minutes: float, value: float) -> None:
        for _ in range(int(for_minutes * 6) + 1):
            for index in range(5):
                signals = {"DCGM_FI_DEV_GPU_UTIL": 98.0, signal: value if index == 2 else normal}
                bench.scrape(signals, node=f"n{index}", gpus=(0,), after=0.0001)
                bench.engine.assign(f"n{index}", {0: Job("default", f"pod-{index}", "p", "r", index)})
            bench.now += 10

    run(2 * minutes, edge)
    assert bench.fired(rule, "n2") is None
    run(minutes - 0.5, low)
    assert bench.fired(rule, "n2") is None
    run(1, low)
    assert bench.fired(rule, "n2") is not None
    assert [index for index in range(5) if bench.fired(rule, f"n{index}")] == [2]


def test_power_cap_of_a_whole_rack_makes_no_stragglers(bench: Any) -> None:
    for clock in (1980.0, 1200.0):
        for _ in range(40):
            for index in range(9):
                bench.scrape(
                    {
                        "DCGM_FI_DEV_SM_CLOCK": clock + index,
                        "DCGM_FI_DEV_GPU_UTIL": 98.0,
                        "DCGM_FI_DEV_CLOCKS_EVENT_REASONS": 0x04,
                    },
                    node=f"n{index}",
                    gpus=(0,),
                    after=0.0001,
                )
            bench.now += 10
    assert all(bench.engine.findings(f"n{index}") == () for index in range(9))
