"""Shows a pipeline while it works: bars on a terminal, lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from longhaul.common.v1 import resource_pb2
from longhaul.training.v1 import training_run_pb2
from rich.console import Console
from rich.live import Live
from rich.progress import DownloadColumn, Progress, TaskID
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from longhaul_client.cli.output import console
from longhaul_client.formatting import duration, quantity, size, state_name
from longhaul_client.uploads import Report, ignore_report
from longhaul_client.watching import PipelineState, PipelineWatch

LINE_EVERY_SECONDS = 10.0


@contextmanager
def upload_progress(*, quiet: bool) -> Iterator[Report]:
    """Tells of uploads: a bar a source on a terminal, else a line now and then."""
    if quiet:
        yield ignore_report
    elif console.is_terminal:
        with Progress(*Progress.get_default_columns(), DownloadColumn(), console=console) as bars:
            tasks: dict[str, TaskID] = {}

            def draw(source: str, done: int, total: int) -> None:
                if source not in tasks:
                    tasks[source] = bars.add_task(f"upload {source}")
                bars.update(tasks[source], completed=done, total=total)

            yield draw
    else:
        spoken: dict[str, float] = {}

        def tell(source: str, done: int, total: int) -> None:
            if done == total or time.monotonic() - spoken.get(source, 0.0) > LINE_EVERY_SECONDS:
                spoken[source] = time.monotonic()
                console.print(f"upload {source}: {size(done)} of {size(total)}")

        yield tell


@dataclass(frozen=True, slots=True)
class StageLine:
    """What is shown of one stage."""

    stage: str
    state: str
    fraction: float
    detail: str


def stage_lines(state: PipelineState) -> Iterator[StageLine]:
    """Yield the four stages of a pipeline as they are to be shown."""
    yield _ingest_line(state)
    yield _corpus_line(state)
    yield _training_line(state)
    yield _evaluation_line(state)


def _job_state(state: resource_pb2.JobState.ValueType) -> str:
    return state_name(resource_pb2.JobState.Name(state), "JOB_STATE_")


def _eta(progress: resource_pb2.Progress) -> str:
    seconds = progress.eta.seconds
    return f", {duration(seconds)} left" if seconds > 0 else ""


def _ingest_line(state: PipelineState) -> StageLine:
    if state.ingestion is None:
        return StageLine("ingest", "…", 0.0, "")
    status = state.ingestion.status
    detail = (
        f"{quantity(status.documents_read)} read, {quantity(status.documents_kept)} kept, "
        f"{quantity(status.documents_dropped)} dropped, {quantity(status.documents_failed)} failed"
    )
    if status.state == resource_pb2.JOB_STATE_FAILED:
        detail = status.reason.message
    return StageLine("ingest", _job_state(status.state), status.progress.fraction, detail + _eta(status.progress))


def _corpus_line(state: PipelineState) -> StageLine:
    if state.corpus_build is None:
        return StageLine("corpus", "…", 0.0, "")
    status = state.corpus_build.status
    detail = status.progress.phase
    if status.state == resource_pb2.JOB_STATE_SUCCEEDED:
        detail = (
            f"{quantity(status.tokens_train)} tokens, {quantity(status.documents_duplicate)} duplicates, "
            f"{quantity(status.documents_contaminated)} contaminated"
        )
    elif status.state == resource_pb2.JOB_STATE_FAILED:
        detail = status.reason.message
    return StageLine("corpus", _job_state(status.state), status.progress.fraction, detail + _eta(status.progress))


def _training_line(state: PipelineState) -> StageLine:
    if state.run is None:
        return StageLine("train", "…", 0.0, "")
    status = state.run.status
    name = state_name(training_run_pb2.TrainingRunState.Name(status.state), "TRAINING_RUN_STATE_")
    if status.state == training_run_pb2.TRAINING_RUN_STATE_RECOVERING:
        action = training_run_pb2.RecoveryAction.Name(status.recovery_action)
        name = f"recovering ({state_name(action, 'RECOVERY_ACTION_')})"
    detail = ""
    if status.step:
        detail = f"step {status.step}/{status.total_steps}, loss {status.loss:.3f}"
        detail += f", {quantity(status.tokens_per_second)} tokens/s" if status.tokens_per_second else ""
        detail += f", epoch {status.epoch}" if status.epoch > 1 else ""
    elif status.pending_reason:
        detail = status.pending_reason
    if status.state == training_run_pb2.TRAINING_RUN_STATE_FAILED:
        detail = status.reason.message
    fraction = status.step / status.total_steps if status.total_steps else 0.0
    return StageLine("train", name, fraction, detail + _eta(status.progress))


def _evaluation_line(state: PipelineState) -> StageLine:
    if state.suite is None:
        return StageLine("evaluate", "…", 0.0, "")
    status = state.suite.status
    done = status.succeeded + status.failed
    fraction = done / status.evaluations if status.evaluations else 0.0
    detail = f"{done} of {status.evaluations} checkpoints scored" if status.evaluations else ""
    if status.failed:
        detail += f", {status.failed} failed"
    return StageLine("evaluate", _job_state(status.state), fraction, detail)


def show(watch: PipelineWatch, console: Console) -> PipelineState:
    """Show a pipeline until it is finished, and return its last state."""
    return _show_live(watch, console) if console.is_terminal else _show_lines(watch, console)


def _show_live(watch: PipelineWatch, console: Console) -> PipelineState:
    with Live(_table(watch.state), console=console, refresh_per_second=4) as live:
        for state in watch:
            live.update(_table(state))
        live.update(_table(watch.state))
    return watch.state


def _table(state: PipelineState) -> Table:
    table = Table.grid(padding=(0, 2))
    for line in stage_lines(state):
        bar = ProgressBar(total=1.0, completed=1.0 if line.state == "succeeded" else line.fraction, width=24)
        colour = {"succeeded": "green", "failed": "red", "cancelled": "red"}.get(line.state, "")
        table.add_row(Text(line.stage, style="bold"), bar, Text(line.state, style=colour), line.detail)
    return table


def _show_lines(watch: PipelineWatch, console: Console) -> PipelineState:
    """Print a line when a stage changes its state, and every ten seconds while one works."""
    started = time.monotonic()
    states: dict[str, str] = {}
    printed: dict[str, float] = {}

    def print_changes(state: PipelineState) -> None:
        now = time.monotonic()
        for line in stage_lines(state):
            changed = states.get(line.stage) != line.state
            due = line.state in ("running", "suspect") and now - printed.get(line.stage, 0.0) > LINE_EVERY_SECONDS
            if line.state == "…" or not (changed or due):
                continue
            states[line.stage], printed[line.stage] = line.state, now
            shown = f"{now - started:6.1f}s  {line.stage:<9}{line.state:<20}{line.detail}"
            console.print(shown.rstrip())

    for state in watch:
        print_changes(state)
    print_changes(watch.state)
    return watch.state
