"""The sections of a report that draw or count something."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from longhaul.common.v1 import resource_pb2
from longhaul.evaluation.v1 import evaluation_pb2
from longhaul.training.v1 import training_run_pb2

from longhaul_client.formatting import clock, duration, quantity, state_name, text
from longhaul_client.report.charts import Bar, Chart, Level, Marker, Series, line_chart, ranked_bars, stacked_bar
from longhaul_client.report.collect import ReportData

SMOOTHING_STEPS = 10
_COLOURS = ("s1", "s2", "s3", "s4", "s5")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in a card; columns that begin with '>' are aligned to the right."""
    right = [column.startswith(">") for column in columns]
    head = "".join(
        f"<th{' class=number' if r else ''}>{text(c.lstrip('>'))}</th>" for c, r in zip(columns, right, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=number' if r else ''}>{text(cell)}</td>" for cell, r in zip(row, right, strict=True))
        + "</tr>"
        for row in rows
    )
    return f'<div class="card scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def learning_charts(data: ReportData) -> str:
    """Loss, learning rate, throughput and gradient norm over the steps, with the faults marked."""
    rows = data.metrics
    steps = [row.step for row in rows]
    checked = [row for row in rows if row.HasField("validation_loss")]
    levels = []
    if data.token_set is not None and data.token_set.validation_unigram_entropy_nats:
        levels = [Level(data.token_set.validation_unigram_entropy_nats, "unigram entropy of the validation text")]
    markers = _markers(data)
    loss = Chart(
        "Loss",
        "step",
        "nats a token",
        [
            Series("training", steps, [row.loss for row in rows]),
            Series("validation", [r.step for r in checked], [r.validation_loss for r in checked], "s2", dots=True),
        ],
        markers,
        levels,
    )
    rate = Chart("Learning rate", "step", "", [Series("learning rate", steps, [r.learning_rate for r in rows], "s3")])
    speed = Chart(
        "Throughput",
        "step",
        "tokens/s",
        [Series("tokens/s", steps, [row.tokens_per_second for row in rows], "s4")],
        markers,
        from_zero=True,
    )
    norm = Chart("Gradient norm", "step", "before clipping", [Series("norm", steps, [r.gradient_norm for r in rows])])
    return (
        f'<div class="grid">{line_chart(loss)}<div class="pair">{line_chart(speed)}{line_chart(rate)}</div>'
        f'<div class="pair">{line_chart(norm)}{_step_time_chart(rows)}</div></div>'
    )


def _step_time_chart(rows: Sequence[training_run_pb2.StepMetrics]) -> str:
    steps = [row.step for row in rows]
    return line_chart(
        Chart(
            "Time of a step",
            "step",
            "seconds",
            [
                Series("step", steps, [row.step_seconds for row in rows], "s4"),
                Series("waiting for data", steps, [row.data_wait_seconds for row in rows], "s2"),
                Series("checkpoint stall", steps, [row.checkpoint_stall_seconds for row in rows], "s3"),
            ],
            from_zero=True,
        )
    )


def _markers(data: ReportData) -> list[Marker]:
    return [
        Marker(incident.fault_step, incident.cause.lower().replace("_", " ")) for incident in data.run.status.incidents
    ]


def score_charts(data: ReportData) -> str:
    """Scores over the steps with two standard errors, and what changed from the first to the last checkpoint."""
    by_metric: dict[tuple[str, str], dict[int, list[tuple[int, evaluation_pb2.Score]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for point in data.curve.points:
        for score in point.scores:
            by_metric[score.task, score.metric][score.few_shot].append((point.step, score))
    if not by_metric:
        return '<p class="quiet">no scores yet</p>'
    charts = "".join(line_chart(_score_chart(task, metric, shots)) for (task, metric), shots in by_metric.items())
    return f'<div class="pair">{charts}</div>' + _differences(data.differences)


def _score_chart(task: str, metric: str, shots: dict[int, list[tuple[int, evaluation_pb2.Score]]]) -> Chart:
    series = [
        Series(
            f"{few_shot}-shot",
            [step for step, _ in points],
            [score.value for _, score in points],
            _COLOURS[index % len(_COLOURS)],
            errors=[score.standard_error for _, score in points],
            dots=True,
        )
        for index, (few_shot, points) in enumerate(sorted(shots.items()))
    ]
    chance = {score.chance for points in shots.values() for _, score in points if score.HasField("chance")}
    return Chart(
        f"{task.replace('_', ' ')}: {metric.replace('_', ' ')}",
        "step",
        "± 2 standard errors",
        series,
        levels=[Level(level, "chance") for level in sorted(chance)],
    )


def _differences(differences: Sequence[evaluation_pb2.PairedDifference]) -> str:
    if not differences:
        return ""
    rows = [
        (
            d.task.replace("_", " "),
            f"{d.few_shot}-shot",
            d.metric,
            f"{d.first:.4f}",
            f"{d.second:.4f}",
            f"{d.difference:+.4f} ± {d.standard_error:.4f}",
            f"{d.interval_low:+.4f} to {d.interval_high:+.4f}",
            f"{d.clusters}",
        )
        for d in differences
    ]
    columns = ["task", "", "metric", ">first", ">last", ">paired difference", ">95 % interval", ">documents"]
    return "<h3 style='margin-top:16px'>First against last checkpoint, item by item</h3>" + table(columns, rows)


def faults(data: ReportData) -> str:
    """Each fault with the split of its recovery time."""
    if not data.run.status.incidents:
        return '<p class="quiet">None happened.</p>'
    rows = []
    for incident in data.run.status.incidents:
        action = state_name(training_run_pb2.RecoveryAction.Name(incident.action), "RECOVERY_ACTION_")
        total = incident.detect_seconds + incident.restart_seconds + incident.restore_seconds + incident.replay_seconds
        rows.append(
            (
                str(incident.number),
                incident.message or incident.cause,
                action,
                f"{incident.fault_step} → {incident.resume_step}",
                duration(incident.detect_seconds),
                duration(incident.restart_seconds),
                duration(incident.restore_seconds),
                f"{duration(incident.replay_seconds)} ({incident.replay_steps} steps)",
                duration(total),
            )
        )
    columns = ["", "what", "repair", "step → resumed", ">detect", ">restart", ">restore", ">replay", ">in all"]
    return table(columns, rows)


def time_split(data: ReportData) -> str:
    """Goodput and badput as one bar."""
    ledger = data.run.status.time
    parts = [
        ("productive", ledger.productive_seconds, "s3"),
        ("start-up", ledger.startup_seconds, "s1"),
        ("data wait", ledger.data_wait_seconds, "s4"),
        ("checkpoint", ledger.checkpoint_seconds, "s5"),
        ("recovery", ledger.recovery_seconds, "warn"),
        ("replay", ledger.replay_seconds, "s2"),
    ]
    whole = sum(seconds for _, seconds, _ in parts)
    bars = [
        Bar(name, seconds, f"{duration(seconds)}, {seconds / whole:.1%}" if whole else "–", colour)
        for name, seconds, colour in parts
    ]
    return f'<div class="card">{stacked_bar(bars)}</div>'


def funnel(data: ReportData) -> str:
    """What became of every document, from reading to training."""
    if data.ingestion is None:
        return '<p class="quiet">no documents yet</p>'
    status = data.ingestion.status
    bars = [Bar("read", status.documents_read, f"{status.documents_read:,}", "s1")]
    bars.append(Bar("kept by ingest", status.documents_kept, f"{status.documents_kept:,}", "s1"))
    if data.corpus_build is not None:
        build = data.corpus_build.status
        unique = build.documents_in - build.documents_duplicate
        bars += [
            Bar("unique", unique, f"{unique:,}", "s1"),
            Bar("training", build.documents_train, f"{build.documents_train:,}", "s3"),
            Bar("held out", build.documents_valid, f"{build.documents_valid:,}", "s3"),
        ]
    reasons: dict[str, int] = defaultdict(int)
    for drop in status.drops:
        reasons[drop.rule] += drop.documents
    losses = [Bar(rule, count, f"{count:,}", "s2") for rule, count in reasons.items()]
    if status.documents_failed:
        losses.append(Bar("unreadable", status.documents_failed, f"{status.documents_failed:,}", "warn"))
    if data.corpus_build is not None:
        build = data.corpus_build.status
        losses += [
            Bar("duplicate", build.documents_duplicate, f"{build.documents_duplicate:,}", "s4"),
            Bar(
                "in an evaluation",
                build.documents_contaminated,
                f"{build.documents_contaminated:,}",
                "s4",
            ),
        ]
    losses = sorted((bar for bar in losses if bar.value), key=lambda bar: -bar.value)
    return (
        f'<div class="pair"><div class="card"><h3>The funnel</h3>{ranked_bars(bars)}</div>'
        f'<div class="card"><h3>What was left out, and why</h3>{ranked_bars(losses)}</div></div>'
    )


def tokenizer(data: ReportData) -> str:
    """Fertility and continued words by source."""
    if data.tokenizer is None or not data.tokenizer.status.scores:
        return ""
    rows = [
        (
            s.source,
            f"{s.fertility:.3f}",
            f"{s.continued_word_proportion:.1%}",
            f"{s.bytes_per_token:.2f}",
            f"{s.words:,}",
        )
        for s in data.tokenizer.status.scores
    ]
    entries = f'<p class="quiet">{data.tokenizer.status.vocabulary_size:,} entries'
    if data.token_set is not None:
        entries += f", {quantity(data.token_set.train_tokens)} training tokens"
        entries += f", {quantity(data.token_set.valid_tokens)} held out"
    columns = ["source", ">tokens a word", ">continued words", ">bytes a token", ">words"]
    return entries + "</p>" + table(columns, rows)


def timeline(data: ReportData) -> str:
    """States of the run over time as one bar, and the list of events."""
    rows = [(clock(event.time), event.type, event.cause, event.message) for event in data.events]
    return f'<div class="card">{stacked_bar(_state_bars(data))}</div><details class="card" style="margin-top:14px">' + (
        f"<summary>{len(rows)} events</summary>{table(['time', 'event', 'cause', 'message'], rows)}</details>"
    )


_STATE_COLOURS = {
    "queued": "s6",
    "waiting for inputs": "s6",
    "admitted": "s1",
    "preflight": "s1",
    "rendezvous": "s5",
    "running": "s3",
    "suspect": "s2",
    "recovering": "warn",
    "paused": "s4",
}


def _state_bars(data: ReportData) -> list[Bar]:
    changes = [event for event in data.events if event.type == "STATE_CHANGED" and "to" in event.data]
    bars = []
    for event, following in pairwise(changes):
        state = str(event.data["to"]).lower().replace("_", " ")
        seconds = _seconds(following) - _seconds(event)
        bars.append(Bar(state, seconds, duration(seconds), _STATE_COLOURS.get(state, "s1")))
    return bars


def _seconds(event: resource_pb2.Event) -> float:
    return event.time.seconds + event.time.nanos / 1e9
