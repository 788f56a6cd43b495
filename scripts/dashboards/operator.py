"""The operator's dashboard: is the fleet well, are the services well, who uses what?"""

from __future__ import annotations

from dashboards.grafana import Dashboard, Kind, Link, Panel, Query, Row, Variable

TO_RUN = Link(
    "This run", "/d/longhaul-run?var-project=${__data.fields.project}&var-run=${__data.fields.run}&${__url_time_range}"
)
NODE = 'Hostname=~"$node"'
GPU = "{{Hostname}} GPU {{gpu}}"
RATE = "[$__rate_interval]"
SERVICE = "* on (instance) group_left (service) longhaul_build_info"


def operator() -> Dashboard:
    """The installation."""
    return Dashboard(
        uid="longhaul-operator",
        title="longhaul / operator",
        help="Fleet, GPU health, services and data jobs of one installation.",
        variables=(Variable("node", "label_values(longhaul_gpuhealth_node_state, node)", multiple=True),),
        rows=(_fleet(), _runs(), _nodes(), _gpus(), _services(), _storage(), _data()),
    )


def _fleet() -> Row:
    return Row(
        "Fleet",
        (
            _stat("Runs in progress", "sum(longhaul:run_stepping) or vector(0)"),
            _stat("GPUs held by runs", "sum(max by (project, run) (longhaul_training_run_gpus)) or vector(0)"),
            _stat("Nodes", "sum(longhaul_gpuhealth_nodes)"),
            _stat("Nodes out", 'sum(longhaul_gpuhealth_nodes{state=~"QUARANTINED|FATAL"}) or vector(0)'),
            _stat("Agents connected", "sum(longhaul_training_agents_connected)"),
            _stat("Alerts firing", 'count(ALERTS{alertname=~"Longhaul.*",alertstate="firing"}) or vector(0)'),
        ),
    )


def _runs() -> Row:
    return Row(
        "Runs",
        (
            Panel(
                "State of each run",
                (Query("max by (project, run, state) (longhaul_training_run_state == 1)"),),
                kind=Kind.TABLE,
                width=12,
                link=TO_RUN,
                hidden_columns=("Value",),
                help="Click a run for its own dashboard.",
            ),
            Panel(
                "Goodput",
                (Query("max by (project, run) (longhaul_training_run_goodput_ratio)", "{{project}}/{{run}}"),),
                unit="percentunit",
                width=12,
            ),
            Panel(
                "Runs by state", (Query("max by (state) (longhaul_training_runs) > 0", "{{state}}"),), kind=Kind.STACK
            ),
            Panel(
                "Time of repairs by stage",
                (
                    Query(
                        "sum by (stage) (longhaul_training_recovery_seconds_sum)"
                        " / (sum by (stage) (longhaul_training_recovery_seconds_count) > 0)",
                        "{{stage}}",
                    ),
                ),
                unit="s",
                help="Mean since the start of the controller: detect, restart, restore, replay.",
            ),
            Panel(
                "Time in the queue",
                (
                    Query(
                        "sum(longhaul_training_queue_seconds_sum) / (sum(longhaul_training_queue_seconds_count) > 0)",
                        "mean",
                    ),
                ),
                unit="s",
            ),
        ),
    )


def _nodes() -> Row:
    return Row(
        "Node health",
        (
            Panel(
                "State of each node",
                (Query('max by (node, state) (longhaul_gpuhealth_node_state{node=~"$node"} == 1)'),),
                kind=Kind.TABLE,
                hidden_columns=("Value",),
            ),
            Panel(
                "Nodes by state",
                (Query("max by (state) (longhaul_gpuhealth_nodes) > 0", "{{state}}"),),
                kind=Kind.STACK,
            ),
            Panel(
                "What was told about nodes",
                (Query("sum by (type, cause) (longhaul_gpuhealth_events_total)", "{{type}} {{cause}}"),),
            ),
            Panel(
                "Scrapes",
                (Query(f"sum by (outcome) (rate(longhaul_gpuhealth_scrapes_total{RATE}))", "{{outcome}}"),),
                unit="ops",
            ),
            Panel(
                "Age of the oldest scrape",
                (Query("max(longhaul_gpuhealth_oldest_scrape_age_seconds)", "age"),),
                unit="s",
            ),
            Panel(
                "Quarantines that wait, breaker",
                (
                    Query("max(longhaul_gpuhealth_waiting_quarantines)", "waiting"),
                    Query("max(longhaul_gpuhealth_breaker_open)", "breaker open"),
                ),
            ),
        ),
    )


def _gpus() -> Row:
    return Row(
        "GPUs",
        (
            Panel("Utilisation", (Query(f"DCGM_FI_DEV_GPU_UTIL{{{NODE}}}", GPU),), unit="percent"),
            Panel("Temperature", (Query(f"DCGM_FI_DEV_GPU_TEMP{{{NODE}}}", GPU),), unit="celsius"),
            Panel("Power", (Query(f"DCGM_FI_DEV_POWER_USAGE{{{NODE}}}", GPU),), unit="watt"),
            Panel("SM clock", (Query(f"DCGM_FI_DEV_SM_CLOCK{{{NODE}}} * 1e6", GPU),), unit="hertz"),
            Panel("Last XID", (Query(f"DCGM_FI_DEV_XID_ERRORS{{{NODE}}}", GPU),)),
            Panel(
                "Memory errors",
                (
                    Query(f"DCGM_FI_DEV_ECC_DBE_VOL_TOTAL{{{NODE}}}", f"{GPU} double bit"),
                    Query(f"DCGM_FI_DEV_ROW_REMAP_FAILURE{{{NODE}}}", f"{GPU} row remap failed"),
                ),
            ),
        ),
    )


def _services() -> Row:
    return Row(
        "Services",
        (
            Panel("Calls", (Query("sum by (service) (longhaul:rpc_calls:rate5m)", "{{service}}"),), unit="ops"),
            Panel(
                "Errors by method",
                (
                    Query(
                        'sum by (service, method, code) (longhaul:rpc_calls:rate5m{code!="OK"}) > 0',
                        "{{method}} {{code}}",
                    ),
                ),
                unit="ops",
            ),
            Panel(
                "Latency, 99 %",
                (Query("max by (service) (longhaul:rpc_latency_seconds:p99_5m)", "{{service}}"),),
                unit="s",
            ),
            Panel("Open streams", (Query("sum by (service) (longhaul_rpc_server_open_streams)", "{{service}}"),)),
            Panel("Memory", (Query(f"process_resident_memory_bytes {SERVICE}", "{{service}}"),), unit="bytes"),
            Panel(
                "CPU", (Query(f"rate(process_cpu_seconds_total{RATE}) {SERVICE}", "{{service}}"),), unit="percentunit"
            ),
            Panel(
                "Replicas",
                (Query("count by (service, version) (longhaul_build_info)", "{{service}} {{version}}"),),
                kind=Kind.STACK,
            ),
            Panel(
                "Time of a pass of the controller",
                (
                    Query(
                        f"sum(rate(longhaul_training_reconcile_seconds_sum{RATE}))"
                        f" / sum(rate(longhaul_training_reconcile_seconds_count{RATE}))",
                        "mean",
                    ),
                ),
                unit="s",
            ),
            Panel(
                "Certificates end in",
                (Query("longhaul_tls_certificate_expiry_timestamp_seconds - time()", "{{instance}}"),),
                unit="s",
            ),
        ),
    )


def _storage() -> Row:
    return Row(
        "Database and object store",
        (
            Panel(
                "Transactions",
                (
                    Query(
                        f"sum by (kind, outcome) (rate(longhaul_database_transactions_total{RATE}))",
                        "{{kind}} {{outcome}}",
                    ),
                ),
                unit="ops",
            ),
            Panel(
                "Time of a transaction, 99 %",
                (
                    Query(
                        "histogram_quantile(0.99,"
                        f" sum by (kind, le) (rate(longhaul_database_transaction_seconds_bucket{RATE})))",
                        "{{kind}}",
                    ),
                ),
                unit="s",
            ),
            Panel(
                "Object store",
                (
                    Query(
                        f"sum by (operation, outcome) (rate(longhaul_objects_operations_total{RATE})) > 0",
                        "{{operation}} {{outcome}}",
                    ),
                ),
                unit="ops",
            ),
            Panel(
                "Checkpoints committed",
                (Query(f"sum(rate(longhaul_checkpoint_committed_bytes_total{RATE}))", "bytes"),),
                unit="Bps",
            ),
            Panel("Commits refused", (Query("sum by (reason) (longhaul_checkpoint_refused_total)", "{{reason}}"),)),
            Panel(
                "Stored",
                (Query("max by (project, run) (longhaul_checkpoint_stored_bytes)", "{{project}}/{{run}}"),),
                unit="bytes",
            ),
        ),
    )


def _data() -> Row:
    return Row(
        "Data",
        (
            Panel(
                "Documents read",
                (Query(f"sum by (outcome) (rate(longhaul_ingest_records_total{RATE}))", "{{outcome}}"),),
                unit="ops",
                kind=Kind.STACK,
            ),
            Panel(
                "Text",
                (
                    Query(f"sum(rate(longhaul_ingest_source_bytes_total{RATE}))", "ingest, read"),
                    Query(f"sum by (phase) (rate(longhaul_corpus_text_bytes_total{RATE}))", "corpus, {{phase}}"),
                ),
                unit="Bps",
            ),
            Panel(
                "Documents of finished builds",
                (Query("sum by (outcome) (longhaul_corpus_documents_total)", "{{outcome}}"),),
            ),
            Panel(
                "Work items",
                (
                    Query(
                        f"sum by (phase, outcome) (rate(longhaul_corpus_items_total{RATE})) > 0",
                        "{{phase}} {{outcome}}",
                    ),
                ),
                unit="ops",
            ),
            Panel("Evaluations", (Query("sum by (state) (longhaul_evaluation_ended_total)", "{{state}}"),)),
            Panel("Dropped by rule", (Query("sum by (rule) (longhaul_ingest_refused_records_total)", "{{rule}}"),)),
        ),
    )


def _stat(title: str, expr: str) -> Panel:
    return Panel(title, (Query(expr),), kind=Kind.STAT, width=4, height=4)
