"""Hysteresis, sticky codes, resets, silence, restarts."""

from __future__ import annotations

from typing import Any

from longhaul_gpuhealth.domain.engine import Engine
from longhaul_gpuhealth.domain.model import HealthAction, HealthState, Remedy, Severity
from longhaul_gpuhealth.domain.rulefile import default_rules_text, parse_rules

XID = "DCGM_FI_DEV_XID_ERRORS"
TEMP = "DCGM_FI_DEV_GPU_TEMP"
REPLAYS = "DCGM_FI_DEV_PCIE_REPLAY_COUNTER"


def test_sticky_gauge_counts_once_until_it_changes(bench: Any) -> None:
    bench.scrape()
    for _ in range(30):
        bench.scrape({XID: 13})
    assert bench.fired("xid-application-repeated") is None
    bench.scrape({XID: 31})
    bench.scrape({XID: 31}, after=60)
    assert bench.fired("xid-application-repeated") is not None


def test_counter_shows_repeats_that_the_gauge_hides(bench: Any) -> None:
    bench.scrape({XID: 0})
    bench.scrape({XID: 13}, xids={13: 1})
    bench.scrape({XID: 13}, xids={13: 2})
    bench.scrape({XID: 13}, xids={13: 2}, after=60)
    assert bench.fired("xid-application-repeated") is not None


def test_counter_that_leaves_its_window_reports_nothing_again(bench: Any) -> None:
    bench.scrape({XID: 0})
    bench.scrape({XID: 13}, xids={13: 1})
    for _ in range(3):
        bench.scrape({XID: 13}, after=400)
    assert bench.fired("xid-application") is None
    assert bench.fired("xid-application-repeated") is None


def test_code_at_first_sight_warns_whatever_its_rule(bench: Any) -> None:
    verdict = bench.scrape({XID: 79})
    finding = bench.fired("xid-off-bus")
    assert finding.severity is Severity.WARNING
    assert not finding.takes_node_out
    assert verdict.state is HealthState.SUSPECT
    bench.scrape({XID: 79}, xids={79: 1})
    assert bench.fired("xid-off-bus").takes_node_out


def test_latched_finding_stays_until_released_and_does_not_return(bench: Any) -> None:
    bench.scrape()
    bench.scrape({XID: 79})
    bench.scrape({XID: 0}, after=100_000)
    assert bench.state() is HealthState.FATAL
    bench.scrape({XID: 79}, after=1)
    bench.engine.release("n0")
    bench.scrape({XID: 79})
    assert bench.state() is HealthState.HEALTHY


def test_warning_clears_after_its_hold(bench: Any) -> None:
    bench.scrape()
    bench.scrape({XID: 13})
    bench.scrape({XID: 13}, after=599)
    assert bench.state() is HealthState.SUSPECT
    bench.scrape({XID: 13}, after=1)
    assert bench.state() is HealthState.HEALTHY


def test_value_at_the_edge_does_not_flap(bench: Any) -> None:
    states = [bench.scrape({TEMP: 84 if second % 2 else 82}, after=5).state for second in range(1, 100)]
    assert set(states) == {HealthState.SUSPECT}
    assert bench.scrape({TEMP: 82}, after=59).state is HealthState.SUSPECT
    assert bench.scrape({TEMP: 82}, after=1).state is HealthState.HEALTHY


def test_counter_reset_is_no_growth_and_return_to_the_old_value_neither(bench: Any) -> None:
    bench.scrape({REPLAYS: 5000})
    bench.scrape({REPLAYS: 0})
    bench.scrape({REPLAYS: 10})
    bench.scrape({REPLAYS: 5000})
    assert bench.fired("pcie-replay-rate") is None
    bench.scrape({REPLAYS: 5051})
    assert bench.fired("pcie-replay-rate") is not None


def test_negative_blank_and_infinite_values_say_nothing(bench: Any) -> None:
    bench.scrape({REPLAYS: 10, TEMP: 50})
    for odd in (-5, float("inf"), float("nan"), 0x7FFFFFF0, 0x7FFFFFFFFFFFFFF0):
        verdict = bench.scrape({REPLAYS: odd, TEMP: odd})
    bench.scrape({REPLAYS: 20, TEMP: 50})
    assert verdict.findings == ()
    assert bench.engine.findings("n0") == ()


def test_reading_not_newer_than_the_last_is_ignored(bench: Any) -> None:
    bench.scrape()
    before = bench.engine.heard("n0")
    bench.scrape({XID: 79}, after=-10)
    assert bench.engine.heard("n0") == before
    assert bench.engine.findings("n0") == ()


def test_silent_node_and_vanished_gpu_are_unknown_not_healthy(bench: Any) -> None:
    bench.scrape()
    assert bench.engine.verdict("n0", bench.now + 3).state is HealthState.HEALTHY
    assert bench.engine.verdict("n0", bench.now + 3.1).state is HealthState.UNKNOWN
    for _ in range(4):
        verdict = bench.scrape(gpus=(0,))
    assert [gpu.state for gpu in verdict.gpus] == [HealthState.HEALTHY, HealthState.UNKNOWN]
    assert verdict.state is HealthState.UNKNOWN
    assert bench.engine.verdict("never-seen", 0.0).state is HealthState.UNKNOWN


def test_another_card_in_the_slot_has_another_past(bench: Any) -> None:
    bench.scrape()
    bench.scrape({XID: 79})
    page = 'DCGM_FI_DEV_XID_ERRORS{gpu="0",UUID="GPU-new",modelName="NVIDIA H100 80GB HBM3"} 0\n'
    reader, attribution = bench.readers["n0"]
    bench.engine.observe(attribution.attribute("n0", bench.now + 1, reader.read(page)))
    assert bench.engine.findings("n0") == ()


def test_series_of_one_gpu_given_twice_count_by_the_worse(bench: Any) -> None:
    page = 'DCGM_FI_DEV_GPU_TEMP{gpu="0",GPU_I_ID="1"} 95\nDCGM_FI_DEV_GPU_TEMP{gpu="0",GPU_I_ID="2"} 50\n'
    bench.scrape()
    reader, attribution = bench.readers["n0"]
    bench.engine.observe(attribution.attribute("n0", bench.now + 1, reader.read(page)))
    assert bench.fired("temperature-critical") is not None


def test_series_without_a_gpu_are_counted_not_guessed(bench: Any) -> None:
    bench.scrape()
    reader, attribution = bench.readers["n0"]
    page = 'DCGM_FI_DEV_GPU_TEMP{Hostname="n0"} 95\nDCGM_FI_DEV_GPU_TEMP{gpu="MIG-7"} 95\n'
    assert attribution.attribute("n0", bench.now + 1, reader.read(page)).unattributed == 2


def test_restored_engine_goes_on_where_the_last_one_was(bench: Any) -> None:
    bench.scrape()
    bench.scrape({XID: 13}, xids={13: 1})
    bench.scrape({XID: 79}, xids={13: 1, 79: 1}, node="n0")
    snapshot, findings = bench.engine.snapshot("n0"), bench.engine.findings("n0")
    bench.engine = Engine(bench.rules, 3.0)
    bench.engine.restore("n0", snapshot, findings, bench.now)
    assert bench.state() is HealthState.FATAL
    bench.scrape({XID: 79}, xids={13: 1, 79: 1})
    assert bench.fired("xid-application-repeated") is None
    bench.engine.release("n0")
    bench.scrape({XID: 79}, xids={13: 1, 79: 1})
    assert bench.state() is HealthState.HEALTHY
    bench.scrape({XID: 79}, xids={13: 2, 79: 1})
    bench.scrape({XID: 79}, xids={13: 2, 79: 1}, after=60)
    assert bench.fired("xid-application-repeated") is not None


def test_shadow_rule_is_recorded_and_changes_no_state(bench: Any) -> None:
    text = default_rules_text().replace("id: xid-off-bus\n", "id: xid-off-bus\n    shadow: true\n")
    bench.engine.use_rules(parse_rules(text))
    bench.scrape()
    verdict = bench.scrape({XID: 79})
    finding = bench.fired("xid-off-bus")
    assert finding.shadow
    assert not finding.takes_node_out
    assert verdict.state is HealthState.HEALTHY


def test_rules_can_be_replaced_while_running(bench: Any) -> None:
    bench.scrape({TEMP: 85})
    assert bench.fired("temperature-high") is not None
    text = default_rules_text().replace("when: {above: 83}", "when: {above: 86, for: 10s}")
    text = text.replace("id: temperature-high", "id: temperature-warm")
    bench.engine.use_rules(parse_rules(text))
    bench.scrape({TEMP: 85})
    assert bench.engine.findings("n0") == ()
    bench.scrape({TEMP: 87})
    bench.scrape({TEMP: 87}, after=9)
    assert bench.fired("temperature-warm") is None
    bench.scrape({TEMP: 87}, after=1)
    assert bench.fired("temperature-warm") is not None


def test_override_by_model_decides_for_that_model_only(bench: Any) -> None:
    bench.scrape({TEMP: 84}, model="NVIDIA A100-SXM4-80GB")
    bench.scrape({TEMP: 84}, node="n1")
    assert bench.fired("temperature-high") is None
    assert bench.fired("temperature-high", "n1") is not None
    bench.scrape({TEMP: 86}, model="NVIDIA A100-SXM4-80GB")
    assert bench.fired("temperature-high") is not None


def test_gpu_gone_while_its_neighbours_answer_is_fatal_not_unknown(bench: Any) -> None:
    bench.scrape()
    bench.scrape(gpus=(0,), after=9)
    assert bench.fired("gpu-lost") is None
    verdict = bench.scrape(gpus=(0,), after=1)
    finding = bench.fired("gpu-lost")
    assert (finding.gpu, finding.action, finding.remedy) == (1, HealthAction.ISOLATE, Remedy.REBOOT)
    assert [gpu.state for gpu in verdict.gpus] == [HealthState.HEALTHY, HealthState.FATAL]
    bench.scrape()
    assert bench.state() is HealthState.FATAL, "it stays until somebody released the node"
    bench.engine.release("n0")
    bench.scrape()
    assert bench.state() is HealthState.HEALTHY


def test_gpu_whose_values_are_blank_counts_as_gone(bench: Any) -> None:
    bench.scrape()
    for _ in range(3):
        bench.scrape({XID: 0x7FFFFFF0, TEMP: 0x7FFFFFF0}, after=5)
    assert bench.fired("gpu-lost").gpu == 0


def test_page_without_any_gpu_is_a_silent_exporter_not_a_lost_gpu(bench: Any) -> None:
    bench.scrape()
    for _ in range(4):
        verdict = bench.scrape(gpus=(), extra="other 1\n", after=10)
    assert bench.fired("gpu-lost") is None
    assert verdict.state is HealthState.UNKNOWN


def test_released_node_no_longer_waits_for_the_gpu_that_is_gone(bench: Any) -> None:
    bench.scrape()
    bench.scrape(gpus=(0,), after=10)
    bench.engine.release("n0")
    verdict = bench.scrape(gpus=(0,), after=10)
    assert bench.fired("gpu-lost") is None
    assert [gpu.index for gpu in verdict.gpus] == [0]


def test_marks_of_others_are_found_and_cleared(bench: Any) -> None:
    bench.scrape()
    bench.engine.observe_marks("n0", ["MemoryPressure=False"], ["nvidia.com/gpu-error=fatal:NoSchedule"], bench.now)
    finding = bench.fired("foreign-taint")
    assert (finding.gpu, finding.takes_node_out, finding.computes) == (-1, True, True)
    bench.engine.observe_marks("n1", ["GPUMissing=False"], ["nvidia.com/gpu-error=warning:NoSchedule"], bench.now)
    assert bench.engine.findings("n1") == ()
    bench.engine.observe_marks("n1", ["GPUMissing=True"], [], bench.now)
    assert bench.fired("foreign-fatal", "n1").remedy is Remedy.REBOOT
    bench.engine.observe_marks("n0", ["GpuThermalWatch=True"], [], bench.now)
    assert bench.fired("foreign-taint") is None
    assert bench.fired("foreign-warning").severity is Severity.WARNING
    assert bench.state() is HealthState.SUSPECT


def test_kernel_log_outranks_gauge_and_shows_repeats(bench: Any) -> None:
    line = 'LONGHAUL_KERNEL_XID_TOTAL{{pci_bus_id="0000:1B:00",xid="13"}} {}\n'
    bench.scrape(gpus=(0,), extra=line.format(4))
    assert bench.fired("xid-application").message.endswith("its age is unknown")
    bench.engine.release("n0")
    bench.scrape({XID: 13}, gpus=(0,), extra=line.format(5))
    assert bench.fired("xid-application") is not None
    bench.scrape({XID: 13}, gpus=(0,), extra=line.format(5), after=60)
    assert bench.fired("xid-application-repeated") is None, "gauge and log tell of one fault"
    bench.scrape({XID: 13}, gpus=(0,), extra=line.format(6))
    bench.scrape({XID: 13}, gpus=(0,), extra=line.format(6), after=60)
    assert bench.fired("xid-application-repeated") is not None


def test_driver_change_settles_before_anything_follows(bench: Any) -> None:
    bench.engine.driver_settle_seconds = 300
    bench.scrape()
    assert bench.engine.verdict("n0", bench.now).settling == ""
    page = 'DCGM_FI_DEV_XID_ERRORS{gpu="0",DCGM_FI_DRIVER_VERSION="580.1"} 119\n'
    reader, attribution = bench.readers["n0"]
    bench.engine.observe(attribution.attribute("n0", bench.now + 1, reader.read(page)))
    assert bench.engine.verdict("n0", bench.now + 300).settling == "DRIVER_CHANGED"
    assert bench.engine.verdict("n0", bench.now + 301).settling == ""


def test_changed_rules_settle_before_anything_follows(bench: Any) -> None:
    bench.engine.rules_settle_seconds = 10
    bench.engine.use_rules(bench.rules, bench.now)
    assert bench.engine.verdict("n0", bench.now + 9).settling == "RULES_CHANGED"
    assert bench.engine.verdict("n0", bench.now + 10).settling == ""
