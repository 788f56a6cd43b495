"""The table at the end of a run."""

from longhaul.corpus.v1 import token_set_pb2
from longhaul.evaluation.v1 import evaluation_pb2
from longhaul.training.v1 import training_run_pb2
from longhaul_core.errors import FailedPrecondition, NotFound

from longhaul_client.cli.output import console, print_error, print_table
from longhaul_client.formatting import duration, quantity, state_name
from longhaul_client.pipeline import Pipeline
from longhaul_client.sdk import Client, call
from longhaul_client.watching import PipelineState


def print_summary(client: Client, pipeline: Pipeline, state: PipelineState) -> None:
    """Print what a pipeline made, the faults it met and the scores of its checkpoints."""
    console.print()
    print_table(["RESULT", ""], _result_rows(client, pipeline, state), empty="")
    if state.run is not None and state.run.status.incidents:
        console.print()
        print_incidents(list(state.run.status.incidents))
    curve = call(client.evaluations.GetScoreCurve, evaluation_pb2.GetScoreCurveRequest(training_run=pipeline.run))
    if curve.points:
        console.print()
        print_scores(curve)


def print_end(state: PipelineState, name: str) -> None:
    """Print the first failure with what to do, or the next command."""
    failure = state.failure
    if failure is None:
        console.print(f"\nnext: longhaul report {name} -o report.html")
        return
    stage, reason = failure
    message = reason.message or "was cancelled"
    print_error(FailedPrecondition(f"{stage}: {message}", reason=reason.code, action=reason.action))


def _result_rows(client: Client, pipeline: Pipeline, state: PipelineState) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    if state.ingestion is not None:
        ingested = state.ingestion.status
        rows.append(("documents", f"{ingested.documents_read} read, {ingested.documents_kept} kept"))
    try:
        request = token_set_pb2.GetTokenSetRequest(name=pipeline.token_set)
        tokens = call(client.token_sets.GetTokenSet, request)
        rows.append(("tokens", f"{quantity(tokens.train_tokens)} training, {quantity(tokens.valid_tokens)} held out"))
    except NotFound:
        pass
    if state.run is not None:
        run = state.run.status
        rows.append(("steps", f"{run.step} of {run.total_steps}, {quantity(run.tokens)} tokens"))
        rows.append(("loss", f"{run.loss:.4f} training, {run.validation_loss:.4f} validation"))
        rows.append(("goodput", f"{run.time.goodput:.1%}"))
    return rows


def print_incidents(incidents: list[training_run_pb2.Incident]) -> None:
    """Print each fault with the split of its recovery time."""
    rows = [
        (
            incident.number,
            incident.cause,
            state_name(training_run_pb2.RecoveryAction.Name(incident.action), "RECOVERY_ACTION_"),
            incident.node or "-",
            f"{incident.detect_seconds:.2f}s",
            f"{incident.restart_seconds:.2f}s",
            f"{incident.restore_seconds:.2f}s",
            f"{incident.replay_seconds:.2f}s ({incident.replay_steps})",
        )
        for incident in incidents
    ]
    columns = [">FAULT", "CAUSE", "ACTION", "NODE", ">DETECT", ">RESTART", ">RESTORE", ">REPLAY (STEPS)"]
    print_table(columns, rows, empty="no faults")


def print_scores(curve: evaluation_pb2.ScoreCurve) -> None:
    """Print the scores of each checkpoint with their standard errors."""
    keys = sorted({(s.task, s.few_shot, s.metric) for point in curve.points for s in point.scores})
    headings = [f">{task} {metric} ({few_shot}-shot)" for task, few_shot, metric in keys]
    rows = []
    for point in curve.points:
        scores = {(s.task, s.few_shot, s.metric): f"{s.value:.4f} ± {s.standard_error:.4f}" for s in point.scores}
        rows.append((point.step, *(scores.get(key, "-") for key in keys)))
    print_table([">STEP", *headings], rows, empty="no scores")


def time_rows(ledger: training_run_pb2.TimeLedger) -> list[tuple[str, str, str]]:
    """Return where the time of a run went, with shares of the whole."""
    parts = {
        "productive": ledger.productive_seconds,
        "start-up": ledger.startup_seconds,
        "data wait": ledger.data_wait_seconds,
        "checkpoint": ledger.checkpoint_seconds,
        "recovery": ledger.recovery_seconds,
        "replay": ledger.replay_seconds,
    }
    whole = sum(parts.values())
    return [(name, duration(value), f"{value / whole:.1%}" if whole else "-") for name, value in parts.items()]
