"""The report of a run: one self-contained HTML page that a person likes to read."""

import html
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from google.protobuf.json_format import MessageToDict
from longhaul.checkpoint.v1 import checkpoint_pb2
from longhaul.training.v1 import training_run_pb2

from longhaul_client.formatting import duration, quantity, short_name, state_name, text
from longhaul_client.report import sections
from longhaul_client.report.collect import ReportData
from longhaul_client.report.theme import SCRIPT, STYLE


def render(data: ReportData, *, now: datetime | None = None) -> str:
    """Return the page of a run."""
    name = short_name(data.run.metadata.name)
    made = (now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC")
    body = [
        _head(data, name),
        _tiles(data),
        _section("Learning", sections.learning_charts(data)),
        _section("Scores of the checkpoints", sections.score_charts(data)),
        _section("Faults and recovery", sections.faults(data)),
        _section("Where the time went", sections.time_split(data)),
        _section("Documents", sections.funnel(data)),
        _section("Tokenizer", sections.tokenizer(data)),
        _section("Checkpoints", _checkpoints(data.checkpoints)),
        _section("Timeline", sections.timeline(data)),
        _section("Lineage", _lineage(data)),
        _section("Recipe, resolved", _recipe(data)),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{text(name)} · longhaul</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><main>{''.join(body)}<footer>Made by longhaul on {made}.</footer></main>"
        f"<script>{SCRIPT}</script></body></html>"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{text(title)}</h2>{content}</section>" if content else ""


def _head(data: ReportData, name: str) -> str:
    status = data.run.status
    state = state_name(training_run_pb2.TrainingRunState.Name(status.state), "TRAINING_RUN_STATE_")
    reason = f"<p>{text(status.reason.message)} {text(status.reason.action)}</p>" if status.reason.message else ""
    resources = data.run.spec.resources
    return (
        f'<h1>{text(name)} <span class="state {text(state)}">{text(state)}</span></h1>'
        f'<p class="quiet">{resources.nodes} nodes × {resources.gpus_per_node}, project {text(data.pipeline.project)}, '
        f"code {text(data.run.spec.code_version)}</p>{reason}"
    )


def _tiles(data: ReportData) -> str:
    status = data.run.status
    tiles: list[tuple[str, str]] = [
        (f"{status.step:,}", f"of {status.total_steps:,} steps"),
        (quantity(status.tokens), "tokens trained on"),
        (f"{status.validation_loss:.3f}" if status.validation_loss else "–", "validation loss, nats"),
    ]
    entropy = data.token_set.validation_unigram_entropy_nats if data.token_set is not None else 0.0
    if entropy and status.validation_loss:
        tiles.append((f"{1 - status.validation_loss / entropy:.0%}", "below the unigram entropy"))
    tiles += [
        (f"{status.time.goodput:.1%}", "goodput"),
        (str(len(status.incidents)), "faults, all recovered" if _all_recovered(data) else "faults"),
    ]
    if status.HasField("end_time"):
        seconds = (status.end_time.ToDatetime() - status.start_time.ToDatetime()).total_seconds()
        tiles.append((duration(seconds), "from start to end"))
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{text(value)}</b><span>{text(label)}</span></div>' for value, label in tiles)
        + "</div>"
    )


def _all_recovered(data: ReportData) -> bool:
    incidents = data.run.status.incidents
    return bool(incidents) and all(incident.HasField("recovered_time") for incident in incidents)


def _checkpoints(checkpoints: Sequence[checkpoint_pb2.Checkpoint]) -> str:
    if not checkpoints:
        return ""
    rows = [
        (
            short_name(checkpoint.metadata.name),
            state_name(checkpoint_pb2.CheckpointState.Name(checkpoint.state), "CHECKPOINT_STATE_"),
            f"{checkpoint.step:,}",
            str(checkpoint.epoch),
            f"{quantity(checkpoint.size_bytes)}B",
            checkpoint.digest[:16],
        )
        for checkpoint in checkpoints
    ]
    return sections.table(["checkpoint", "state", ">step", ">epoch", ">size", "digest"], rows)


def _lineage(data: ReportData) -> str:
    rows = [("training run", data.run.metadata.name, data.run.metadata.fingerprint)]
    rows += [("input", reference.name, reference.digest) for reference in data.run.status.inputs]
    if data.token_set is not None:
        rows.append(("token set", data.token_set.metadata.name, data.token_set.digest))
    if data.corpus_build is not None:
        rows += [("corpus input", item.name, item.digest) for item in data.corpus_build.status.inputs]
    if data.tokenizer is not None:
        rows.append(("tokenizer", data.tokenizer.metadata.name, data.tokenizer.status.digest))
    if data.dataset is not None:
        rows.append(("dataset", data.dataset.metadata.name, data.dataset.digest))
    cells = "".join(
        f"<tr><th>{text(kind)}</th><td>{text(name)}</td><td><code>{text(digest)}</code></td></tr>"
        for kind, name, digest in dict.fromkeys(rows)
    )
    return f'<div class="card scroll"><table>{cells}</table></div>'


def _recipe(data: ReportData) -> str:
    recipe = data.run.spec.recipe or _as_text(MessageToDict(data.run.spec))
    return f'<details class="card"><summary>show</summary><pre>{html.escape(recipe)}</pre></details>'


def _as_text(content: Any) -> str:
    return "\n".join(f"{key}: {value}" for key, value in content.items())
