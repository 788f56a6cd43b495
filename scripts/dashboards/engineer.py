"""The dashboard of one run, for the engineer who trains it: is it learning, how fast, and what went wrong?"""

from __future__ import annotations

from dashboards.grafana import Dashboard, Kind, Link, Panel, Query, Row, Variable

RUN = 'project="$project",run="$run"'
TO_NODE = Link("GPU health of this node", "/d/longhaul-operator?var-node=${__data.fields.node}&${__url_time_range}")


def engineer() -> Dashboard:
    """One run."""
    return Dashboard(
        uid="longhaul-run",
        title="longhaul / run",
        help="One training run: loss, throughput, MFU, faults, checkpoints, evaluations, data mixture.",
        variables=(
            Variable("project", "label_values(longhaul_training_run_state, project)"),
            Variable("run", 'label_values(longhaul_training_run_state{project="$project"}, run)'),
        ),
        rows=(_now(), _learning(), _throughput(), _faults(), _checkpoints(), _evaluations(), _data()),
        links=(Link("Operator", "/d/longhaul-operator"),),
    )


def _now() -> Row:
    remaining = (
        f"(max(longhaul_training_run_target_steps{{{RUN}}}) - max(longhaul_training_run_step{{{RUN}}}))"
        f" * max(longhaul_training_run_step_seconds{{{RUN}}})"
    )
    progress = f"max(longhaul_training_run_step{{{RUN}}}) / max(longhaul_training_run_target_steps{{{RUN}}})"
    age = f"max(longhaul:run_checkpoint_age_seconds{{{RUN}}})"
    state = f"max by (state) (longhaul_training_run_state{{{RUN}}} == 1)"
    return Row(
        "Now",
        (
            _stat("State", state, "short", "{{state}}"),
            _stat("Progress", progress, "percentunit"),
            _stat("Remaining", remaining, "s", help="Steps that are left at the median time of the newest steps."),
            _stat("Goodput", f"max(longhaul_training_run_goodput_ratio{{{RUN}}})", "percentunit"),
            _stat("Restarts", f"sum(longhaul_training_run_restarts{{{RUN}}}) or vector(0)", "short"),
            _stat("Last intact checkpoint", age, "s"),
        ),
    )


def _learning() -> Row:
    return Row(
        "Learning",
        (
            Panel(
                "Loss",
                (
                    Query(f"max(longhaul_trainer_loss{{{RUN}}})", "training"),
                    Query(f"max(longhaul_trainer_validation_loss{{{RUN}}})", "validation"),
                ),
                width=12,
                height=9,
                help="Nats a token, as the pod of rank 0 reports them.",
            ),
            Panel(
                "Gradient norm",
                (Query(f"max(longhaul_trainer_gradient_norm{{{RUN}}})", "before clipping"),),
                width=6,
                height=9,
                log_scale=True,
            ),
            Panel(
                "Learning rate", (Query(f"max(longhaul_trainer_learning_rate{{{RUN}}})", "used"),), width=6, height=9
            ),
        ),
    )


def _throughput() -> Row:
    seconds = f"sum(rate(longhaul_trainer_step_seconds_sum{{{RUN}}}[$__rate_interval]))"
    buckets = f"sum by (le) (rate(longhaul_trainer_step_seconds_bucket{{{RUN}}}[$__rate_interval]))"
    wait = f"sum(rate(longhaul_trainer_data_wait_seconds_total{{{RUN}}}[$__rate_interval]))"
    stall = f"sum(rate(longhaul_trainer_checkpoint_stall_seconds_total{{{RUN}}}[$__rate_interval]))"
    return Row(
        "Throughput",
        (
            Panel(
                "Tokens a second",
                (
                    Query(f"max(longhaul_trainer_tokens_per_second{{{RUN}}})", "newest step"),
                    Query(f"sum(rate(longhaul_trainer_tokens_total{{{RUN}}}[$__rate_interval]))", "sustained"),
                ),
                unit="short",
            ),
            Panel(
                "Step time",
                (
                    Query(f"histogram_quantile(0.5, {buckets})", "median"),
                    Query(f"histogram_quantile(0.99, {buckets})", "99 %"),
                ),
                unit="s",
            ),
            Panel(
                "MFU",
                (Query(f"max(longhaul_trainer_mfu_ratio{{{RUN}}})", "share of the dense peak"),),
                unit="percentunit",
                help="Against the dense bfloat16 peak of the ranks' devices; unknown devices have none.",
            ),
            Panel(
                "Where a step's time goes",
                (
                    Query(f"{wait} / {seconds}", "data wait"),
                    Query(f"{stall} / {seconds}", "checkpoint stall"),
                ),
                unit="percentunit",
                help="The rest is compute and communication.",
            ),
            Panel("Step", (Query(f"max(longhaul_trainer_step{{{RUN}}})", "newest"),), width=8),
            Panel(
                "Where the time went",
                (Query(f"max by (use) (longhaul_training_run_time_seconds{{{RUN}}})", "{{use}}"),),
                unit="s",
                kind=Kind.STACK,
                help="Productive and preserved time, and badput by cause.",
            ),
        ),
    )


def _faults() -> Row:
    return Row(
        "Faults",
        (
            Panel(
                "Restarts",
                (
                    Query(
                        f"sum by (cause, action) (longhaul_training_run_restarts{{{RUN}}})", "{{cause}} by {{action}}"
                    ),
                ),
            ),
            Panel(
                "Workers by phase",
                (Query(f"sum by (phase) (longhaul_trainer_workers{{{RUN}}}) > 0", "{{phase}}"),),
                kind=Kind.STACK,
            ),
            Panel(
                "Silence of the most silent worker",
                (Query(f"max by (slot) (longhaul_trainer_worker_silent_seconds{{{RUN}}})", "pod {{slot}}"),),
                unit="s",
            ),
            Panel(
                "Ends of workers",
                (
                    Query(
                        f"sum by (exit_code) (longhaul_trainer_worker_exits_total{{{RUN}}})", "exit code {{exit_code}}"
                    ),
                ),
                help="Exit codes are explained in docs/exit-codes.md.",
            ),
            Panel(
                "Anomalies",
                (Query(f"sum by (cause) (longhaul_trainer_anomalies_total{{{RUN}}})", "{{cause}}"),),
            ),
            Panel(
                "Nodes of the run",
                (Query(f"max by (slot, node) (longhaul_training_run_node_info{{{RUN}}})"),),
                kind=Kind.TABLE,
                link=TO_NODE,
                hidden_columns=("Value",),
                help="Click a node for the health of its GPUs.",
            ),
        ),
    )


def _checkpoints() -> Row:
    return Row(
        "Checkpoints",
        (
            Panel(
                "Age of the last intact checkpoint",
                (Query(f"max(longhaul:run_checkpoint_age_seconds{{{RUN}}})", "age"),),
                unit="s",
            ),
            Panel("Stored", (Query(f"max(longhaul_checkpoint_stored_bytes{{{RUN}}})", "bytes"),), unit="bytes"),
            Panel(
                "Time to write",
                (
                    Query(
                        f"sum(longhaul_trainer_checkpoint_write_seconds_sum{{{RUN}}})"
                        f" / sum(longhaul_trainer_checkpoint_write_seconds_count{{{RUN}}})",
                        "mean",
                    ),
                ),
                unit="s",
            ),
        ),
    )


def _evaluations() -> Row:
    labels = "task, few_shot, metric"
    legend = "{{task}} {{few_shot}}-shot {{metric}}"
    return Row(
        "Evaluations",
        (
            Panel("Scores", (Query(f"max by ({labels}) (longhaul_evaluation_score{{{RUN}}})", legend),), width=12),
            Panel(
                "Standard errors",
                (Query(f"max by ({labels}) (longhaul_evaluation_score_standard_error{{{RUN}}})", legend),),
                width=6,
            ),
            Panel(
                "Evaluated step",
                (Query(f"max by ({labels}) (longhaul_evaluation_score_step{{{RUN}}})", legend),),
                width=6,
            ),
        ),
    )


def _data() -> Row:
    return Row(
        "Data mixture",
        (
            Panel(
                "Epochs of each source",
                (Query(f"max by (source) (longhaul_trainer_source_epochs{{{RUN}}})", "{{source}}"),),
                width=12,
                help="How often each source was read; above 4 repeated text teaches little.",
            ),
            Panel(
                "Source validation loss",
                (Query(f"max by (source) (longhaul_trainer_source_validation_loss{{{RUN}}})", "{{source}}"),),
                width=12,
            ),
        ),
    )


def _stat(title: str, expr: str, unit: str, legend: str = "", help: str = "") -> Panel:
    return Panel(title, (Query(expr, legend),), unit=unit, kind=Kind.STAT, width=4, height=4, help=help)
