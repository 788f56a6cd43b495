"""When each alert fires and when it stays quiet, in promtool's notation: `start+step x count`, one value every 15 s."""

from __future__ import annotations

from dataclasses import dataclass

RUN = 'project="p",run="r"'
HOURS = 240
"""Samples an hour."""
NEVER = "_"
RUNNING = {f'longhaul_training_run_state{{{RUN},state="RUNNING"}}': f"1x{4 * HOURS}"}
BUILD = 'longhaul_build_info{{service="{}",version="1"}}'
SERVICES = ("ingest", "corpus", "training", "checkpoint", "evaluation", "gpuhealth")


@dataclass(frozen=True)
class Case:
    """Series under which an alert fires at `at`, and others under which it does not."""

    at: str
    firing: dict[str, str]
    quiet: dict[str, str]


def _calls(bad: int) -> dict[str, str]:
    labels = 'service="s",method="m"'
    return {
        f'longhaul_rpc_server_handled_total{{{labels},code="OK"}}': f"0+100x{HOURS}",
        f'longhaul_rpc_server_handled_total{{{labels},code="INTERNAL"}}': f"0+{bad}x{HOURS}",
        f'longhaul_rpc_server_handled_total{{{labels},code="NOT_FOUND"}}': f"0+100x{HOURS}",
    }


def _outcomes(metric: str, labels: str, bad: int) -> dict[str, str]:
    return {
        f'{metric}{{{labels},outcome="ok"}}': f"0+100x{HOURS}",
        f'{metric}{{{labels},outcome="failed"}}': f"0+{bad}x{HOURS}",
    }


def _time(productive: int, recovery: int) -> dict[str, str]:
    return {
        **RUNNING,
        f'longhaul_training_run_time_seconds{{{RUN},use="productive"}}': f"0+{productive}x{4 * HOURS}",
        f'longhaul_training_run_time_seconds{{{RUN},use="recovery"}}': f"0+{recovery}x{4 * HOURS}",
        f'longhaul_training_run_time_seconds{{{RUN},use="queued"}}': f"0+100x{4 * HOURS}",
    }


def _loss(tail: str) -> dict[str, str]:
    """An hour of a loss that wobbles between 3.0 and 3.1, then something else."""
    wobble = " ".join(["3.0", "3.1"] * (HOURS // 2))
    return {**RUNNING, f"longhaul_training_run_loss{{{RUN}}}": f"{wobble} {tail}"}


def _queued(admitted: str) -> dict[str, str]:
    return {
        f'longhaul_training_run_state{{{RUN},state="QUEUED"}}': f"1x{4 * HOURS}",
        f"longhaul_training_run_state_timestamp_seconds{{{RUN}}}": f"0x{4 * HOURS}",
        'longhaul_training_transitions_total{state="ADMITTED"}': admitted,
    }


def _gauge(metric: str, value: float) -> dict[str, str]:
    return {metric: f"{value}x{4 * HOURS}"}


def _last_step(values: str) -> dict[str, str]:
    return {
        **RUNNING,
        f"longhaul_training_run_last_step_timestamp_seconds{{{RUN}}}": values,
        f"longhaul_training_run_step_seconds{{{RUN}}}": f"5x{4 * HOURS}",
    }


def _checkpoint(values: str) -> dict[str, str]:
    return {
        **RUNNING,
        f"longhaul_training_run_state_timestamp_seconds{{{RUN}}}": f"0x{4 * HOURS}",
        f"longhaul_checkpoint_last_verified_timestamp_seconds{{{RUN}}}": values,
    }


ANOMALY = f'longhaul_trainer_anomalies_total{{{RUN},cause="LOSS_NOT_FINITE"}}'
RATE = f"longhaul_training_run_tokens_per_second{{{RUN}}}"
EXPIRY = 'longhaul_tls_certificate_expiry_timestamp_seconds{job="ingest"}'

CASES = {
    "LonghaulLossSpike": Case("63m", _loss("9x20"), _loss("3.05x20")),
    "LonghaulLossNotFinite": Case("35m", {ANOMALY: "0x120 1x60"}, {ANOMALY: "0x180"}),
    "LonghaulThroughputDrop": Case("75m", {**RUNNING, RATE: "1000x240 900x120"}, {**RUNNING, RATE: "1000x240 980x120"}),
    "LonghaulRunHung": Case("30m", _last_step(f"0+15x60 900x{HOURS}"), _last_step(f"0+15x{HOURS}")),
    "LonghaulRunFailed": Case("5m", _gauge(f'longhaul_training_run_state{{{RUN},state="FAILED"}}', 1), RUNNING),
    "LonghaulCheckpointTooOld": Case("80m", _checkpoint("60x500"), _checkpoint("60x100 3000x400")),
    "LonghaulCheckpointDamaged": Case(
        "30m", {"longhaul_checkpoint_damaged_total": "0x60 1x60"}, {"longhaul_checkpoint_damaged_total": "1x120"}
    ),
    "LonghaulGoodputLow": Case("100m", _time(10, 5), _time(14, 1)),
    "LonghaulQueueStuck": Case("75m", _queued("3x960"), _queued("0+1x960")),
    "LonghaulNodeBudgetExhausted": Case(
        "10m",
        _gauge("longhaul_gpuhealth_waiting_quarantines", 1),
        _gauge("longhaul_gpuhealth_waiting_quarantines", 0),
    ),
    "LonghaulQuarantineBreakerOpen": Case(
        "5m", _gauge("longhaul_gpuhealth_breaker_open", 1), _gauge("longhaul_gpuhealth_breaker_open", 0)
    ),
    "LonghaulExporterSilent": Case(
        "5m",
        {"longhaul_gpuhealth_oldest_scrape_age_seconds": f"90+15x{HOURS}"},
        _gauge("longhaul_gpuhealth_oldest_scrape_age_seconds", 30),
    ),
    "LonghaulHealthRulesRejected": Case(
        "5m", _gauge("longhaul_gpuhealth_rules_load_failed", 1), _gauge("longhaul_gpuhealth_rules_load_failed", 0)
    ),
    "LonghaulServiceDown": Case(
        "10m",
        {BUILD.format(name): f"1x{HOURS}" for name in SERVICES[1:]},
        {BUILD.format(name): f"1x{HOURS}" for name in SERVICES},
    ),
    "LonghaulNoController": Case(
        "5m",
        {f'longhaul_training_leading{{instance="{n}"}}': f"0x{HOURS}" for n in "ab"},
        {f'longhaul_training_leading{{instance="{n}"}}': f"{value}x{HOURS}" for n, value in (("a", 0), ("b", 1))},
    ),
    "LonghaulRpcErrors": Case("20m", _calls(50), _calls(1)),
    "LonghaulStoreFailing": Case(
        "20m",
        _outcomes("longhaul_objects_operations_total", 'operation="put"', 10),
        _outcomes("longhaul_objects_operations_total", 'operation="put"', 1),
    ),
    "LonghaulDatabaseFailing": Case(
        "20m",
        _outcomes("longhaul_database_transactions_total", 'kind="write"', 10),
        _outcomes("longhaul_database_transactions_total", 'kind="write"', 1),
    ),
    "LonghaulCertificateEnding": Case("20m", _gauge(EXPIRY, 6 * 86400), _gauge(EXPIRY, 30 * 86400)),
}

RECORDED = {
    "longhaul:rpc_calls:rate5m": ("20m", _calls(0), 100 / 15, 'code="OK"'),
    "longhaul:rpc_errors:ratio5m": ("20m", _calls(50), 0.2, ""),
    "longhaul:rpc_latency_seconds:p99_5m": (
        "20m",
        {
            f'longhaul_rpc_server_handling_seconds_bucket{{service="s",method="m",le="{le}"}}': f"0+{n}x{HOURS}"
            for le, n in (("0.1", 100), ("0.2", 200), ("+Inf", 200))
        },
        0.198,
        "",
    ),
    "longhaul:objects_failures:ratio5m": (
        "20m", _outcomes("longhaul_objects_operations_total", 'operation="get"', 25), 0.2, "",
    ),
    "longhaul:database_failures:ratio5m": (
        "20m", _outcomes("longhaul_database_transactions_total", 'kind="read"', 25), 0.2, "",
    ),
    "longhaul:run_stepping": ("5m", RUNNING, 1, ""),
    "longhaul:run_tokens_per_second:avg5m": ("20m", {RATE: "100x40 200x200"}, 200, ""),
    "longhaul:run_tokens_per_second:median1h": ("60m", {RATE: "100x200 200x60"}, 100, ""),
    "longhaul:run_goodput:ratio1h": ("90m", _time(12, 3), 0.8, ""),
    "longhaul:run_loss:deviations": ("60m", _loss("3.35x4"), 6.008, ""),
    "longhaul:run_checkpoint_age_seconds": ("20m", _checkpoint("600x200"), 600, ""),
}  # fmt: skip
