"""`longhaul runs`: list, show, watch, logs, metrics, events and the verbs."""

import itertools
from typing import Annotated, Any

import typer
from longhaul.corpus.v1 import corpus_build_pb2
from longhaul.training.v1 import training_run_pb2

from longhaul_client.cli import summary
from longhaul_client.cli.exit_codes import ExitCode
from longhaul_client.cli.fork import fork
from longhaul_client.cli.output import JsonOption, console, print_json, print_json_line, print_labelled, print_table
from longhaul_client.cli.progress import show
from longhaul_client.cli.session import session_of
from longhaul_client.formatting import age, duration, quantity, short_name, state_name
from longhaul_client.pipeline import pipeline_of
from longhaul_client.report.collect import list_events, list_metrics
from longhaul_client.sdk import Client, call, pages
from longhaul_client.watching import PipelineWatch

app = typer.Typer(no_args_is_help=True, help="Training runs.")

RunArgument = Annotated[str, typer.Argument(help="Id or full name of the run.", metavar="RUN")]
COLLECTION = "trainingRuns"


def run_state(run: training_run_pb2.TrainingRun) -> str:
    """Return the state of a run for people."""
    return state_name(training_run_pb2.TrainingRunState.Name(run.status.state), "TRAINING_RUN_STATE_")


def get_run(client: Client, name: str) -> training_run_pb2.TrainingRun:
    """Read one run by its full name."""
    return call(client.runs.GetTrainingRun, training_run_pb2.GetTrainingRunRequest(name=name))


@app.command("list")
def list_runs(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="Runs at most.")] = 20,
    json: JsonOption = False,
) -> None:
    """List the runs of the project, newest first.

    Example: longhaul runs list --json
    """
    session = session_of(context)
    with session.client() as client:
        request = training_run_pb2.ListTrainingRunsRequest(parent=session.parent, page_size=min(limit, 100))
        runs = list(itertools.islice(pages(client.runs.ListTrainingRuns, request, "training_runs"), limit))
    if json:
        print_json(runs)
        return
    rows = [
        (
            short_name(run.metadata.name),
            run_state(run),
            f"{run.status.step}/{run.status.total_steps}",
            f"{run.status.loss:.4f}" if run.status.step else "-",
            f"{run.status.time.goodput:.1%}" if run.status.step else "-",
            len(run.status.incidents),
            age(run.metadata.create_time),
        )
        for run in runs
    ]
    columns = ["RUN", "STATE", ">STEP", ">LOSS", ">GOODPUT", ">FAULTS", ">AGE"]
    print_table(columns, rows, empty="no runs; start one with `longhaul run RECIPE.yaml`")


@app.command("show")
def show_run(context: typer.Context, run: RunArgument, json: JsonOption = False) -> None:
    """Show one run: state, progress, ranks, faults and where its time went.

    Example: longhaul runs show my-run
    """
    session = session_of(context)
    with session.client() as client:
        found = get_run(client, session.resource(run, COLLECTION))
    if json:
        print_json(found)
        return
    status = found.status
    rows = [
        ("state", run_state(found)),
        ("reason", f"{status.reason.message} {status.reason.action}".strip() or status.pending_reason or "-"),
        ("progress", f"{status.step}/{status.total_steps} steps ({status.progress.fraction:.1%})"),
        ("eta", duration(status.progress.eta.seconds) if status.progress.eta.seconds else "-"),
        ("loss", f"{status.loss:.4f} (validation {status.validation_loss:.4f})"),
        ("speed", f"{quantity(status.tokens_per_second)} tokens/s"),
        ("eta error", f"{status.eta_error:.0%} of the time left then" if status.eta_error else "-"),
        ("nodes", f"{status.nodes} and {status.spares_ready} spare(s) ready, epoch {status.epoch}"),
        ("checkpoint", short_name(status.checkpoint) or "-"),
        ("token set", found.spec.token_set),
        ("goodput", f"{status.time.goodput:.1%}"),
    ]
    print_table(["RUN", short_name(found.metadata.name)], rows, empty="")
    if status.ranks:
        console.print()
        ranks = [(r.rank, r.pod, r.node, r.process_id, r.step, r.phase, age(r.heartbeat_time)) for r in status.ranks]
        print_table([">RANK", "POD", "NODE", ">PID", ">STEP", "PHASE", ">HEARTBEAT"], ranks, empty="")
    if status.checks:
        console.print()
        checks = [(c.node, c.check, "ok" if c.passed else "FAILED", c.message) for c in status.checks]
        print_table(["NODE", "CHECK", "RESULT", "FOUND"], checks, empty="")
    if status.incidents:
        console.print()
        summary.print_incidents(list(status.incidents))
    if status.time.productive_seconds:
        console.print()
        print_table(["TIME", ">SPENT", ">SHARE"], summary.time_rows(status.time), empty="")


@app.command("why")
def why(context: typer.Context, run: RunArgument, json: JsonOption = False) -> None:
    """Say why a run does not train: which resource is missing, how much of it, and who is ahead.

    Example: longhaul runs why my-run
    """
    session = session_of(context)
    with session.client() as client:
        request = training_run_pb2.ExplainTrainingRunRequest(name=session.resource(run, COLLECTION))
        found = call(client.runs.ExplainTrainingRun, request)
    if json:
        print_json(found)
        return
    state = state_name(training_run_pb2.TrainingRunState.Name(found.state), "TRAINING_RUN_STATE_")
    console.print(f"{state}: {found.reason.message or '-'}")
    if found.reason.action:
        console.print(f"what to do: {found.reason.action}")
    if found.queue_position:
        ahead = ", ".join(short_name(name) for name in found.ahead)
        console.print(f"place {found.queue_position} in the queue" + (f", after {ahead}" if ahead else ""))
    if found.missing:
        rows = [(m.resource, m.needed, m.available, m.missing, m.unit, m.message) for m in found.missing]
        print_table(["MISSING", ">NEEDED", ">THERE", ">LACKING", "UNIT", "WHY"], rows, empty="")


@app.command("watch")
def watch_run(context: typer.Context, run: RunArgument, json: JsonOption = False) -> None:
    """Watch a run and what feeds it until everything is over.

    Example: longhaul runs watch my-run
    """
    session = session_of(context)
    with session.client() as client:
        found = get_run(client, session.resource(run, COLLECTION))
        build = call(
            client.corpus_builds.GetCorpusBuild,
            corpus_build_pb2.GetCorpusBuildRequest(name=found.spec.token_set.replace("/tokenSets/", "/corpusBuilds/")),
        )
        pipeline = pipeline_of(found, build)
        watch = PipelineWatch(client, pipeline)
        if json:
            _watch_json(watch)
        else:
            show(watch, console)
            summary.print_summary(client, pipeline, watch.state)
            summary.print_end(watch.state, short_name(pipeline.run))
    if not watch.state.succeeded:
        raise typer.Exit(ExitCode.FAILED)


def _watch_json(watch: PipelineWatch) -> None:
    revision = -1
    for state in watch:
        if state.run is not None and state.run.metadata.revision != revision:
            revision = state.run.metadata.revision
            print_json_line(state.run)
    if watch.state.run is not None:
        print_json_line(watch.state.run)


@app.command("logs")
def logs(
    context: typer.Context,
    run: RunArgument,
    rank: Annotated[int | None, typer.Option(help="Only this rank; -1 is the agent.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    tail: Annotated[int, typer.Option(min=0, help="Only the last lines; 0: all.")] = 0,
    json: JsonOption = False,
) -> None:
    """Print what the ranks wrote, of all pods the run ever had.

    Example: longhaul runs logs my-run --rank 0 -f
    """
    session = session_of(context)
    request = training_run_pb2.ReadLogsRequest(
        name=session.resource(run, COLLECTION), rank=rank, follow=follow, tail_lines=tail
    )
    with session.client() as client:
        for response in client.runs.ReadLogs(request):
            for line in response.lines:
                if json:
                    print_json_line(line)
                    continue
                who = f"rank {line.rank}" if line.rank >= 0 else "agent"
                print_labelled(f"{who:>7} e{line.epoch}", line.text, style="dim")


@app.command("metrics")
def metrics(
    context: typer.Context,
    run: RunArgument,
    after_step: Annotated[int, typer.Option(help="Only later steps.")] = 0,
    json: JsonOption = False,
) -> None:
    """Print the metrics of every step.

    Example: longhaul runs metrics my-run --json
    """
    session = session_of(context)
    with session.client() as client:
        rows = list_metrics(client, session.resource(run, COLLECTION), after_step=after_step)
    if json:
        print_json(rows)
        return
    print_table(
        [">STEP", ">EPOCH", ">LOSS", ">LR", ">GRAD NORM", ">TOKENS/S", ">VALIDATION"],
        [
            (
                row.step,
                row.epoch,
                f"{row.loss:.4f}",
                f"{row.learning_rate:.2e}",
                f"{row.gradient_norm:.3f}",
                quantity(row.tokens_per_second),
                f"{row.validation_loss:.4f}" if row.HasField("validation_loss") else "",
            )
            for row in rows
        ],
        empty="no steps yet",
    )


@app.command("events")
def events(context: typer.Context, run: RunArgument, json: JsonOption = False) -> None:
    """Print what happened to a run, why, and what was done.

    Example: longhaul runs events my-run
    """
    session = session_of(context)
    with session.client() as client:
        found = list_events(client, session.resource(run, COLLECTION))
    if json:
        print_json(found)
        return
    rows = [(event.time.ToDatetime().strftime("%H:%M:%S"), event.type, event.cause, event.message) for event in found]
    print_table(["TIME", "EVENT", "CAUSE", "MESSAGE"], rows, empty="no events")


def _verb(context: typer.Context, run: str, method: str, request: Any, *, json: bool) -> None:
    session = session_of(context)
    request.name = session.resource(run, COLLECTION)
    with session.client() as client:
        changed = call(getattr(client.runs, method), request)
    if json:
        print_json(changed)
    else:
        console.print(f"{short_name(changed.metadata.name)}: {run_state(changed)}")


@app.command("cancel")
def cancel(context: typer.Context, run: RunArgument, json: JsonOption = False) -> None:
    """End a run. Committed checkpoints stay.

    Example: longhaul runs cancel my-run
    """
    _verb(context, run, "CancelTrainingRun", training_run_pb2.CancelTrainingRunRequest(), json=json)


@app.command("pause")
def pause(context: typer.Context, run: RunArgument, json: JsonOption = False) -> None:
    """Write a checkpoint, stop the workers and give the GPUs back.

    Example: longhaul runs pause my-run
    """
    _verb(context, run, "PauseTrainingRun", training_run_pb2.PauseTrainingRunRequest(), json=json)


@app.command("resume")
def resume(context: typer.Context, run: RunArgument, json: JsonOption = False) -> None:
    """Let a paused run go on from its last checkpoint.

    Example: longhaul runs resume my-run
    """
    _verb(context, run, "ResumeTrainingRun", training_run_pb2.ResumeTrainingRunRequest(), json=json)


@app.command("resize")
def resize(
    context: typer.Context,
    run: RunArgument,
    nodes: Annotated[int, typer.Argument(min=1, help="Nodes from now on.")],
    json: JsonOption = False,
) -> None:
    """Change the number of nodes of a paused run; the global batch stays.

    Example: longhaul runs resize my-run 4
    """
    _verb(context, run, "ResizeTrainingRun", training_run_pb2.ResizeTrainingRunRequest(nodes=nodes), json=json)


app.command("fork")(fork)


@app.command("retry")
def retry(context: typer.Context, run: RunArgument, json: JsonOption = False) -> None:
    """Let a failed run go on from its last checkpoint, with fresh budgets.

    Example: longhaul runs retry my-run
    """
    _verb(context, run, "RetryTrainingRun", training_run_pb2.RetryTrainingRunRequest(), json=json)
