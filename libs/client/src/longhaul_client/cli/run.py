"""`longhaul plan` and `longhaul run`."""

from pathlib import Path
from typing import Annotated

import typer
from longhaul.training.v1 import training_run_pb2

from longhaul_client.cli import summary
from longhaul_client.cli.exit_codes import ExitCode
from longhaul_client.cli.output import JsonOption, console, print_json, print_labelled, print_table
from longhaul_client.cli.progress import show, upload_progress
from longhaul_client.cli.session import session_of
from longhaul_client.formatting import duration, quantity, size
from longhaul_client.pipeline import Pipeline, submit
from longhaul_client.recipes import read_recipe
from longhaul_client.sdk import call
from longhaul_client.watching import PipelineWatch

RecipeArgument = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", metavar="RECIPE")]


def plan(context: typer.Context, recipe: RecipeArgument, json: JsonOption = False) -> None:
    """Cost a recipe before anything is created: size, memory, time, GPU-hours, and the questions to answer first.

    Example: longhaul plan recipe.yaml
    """
    document = read_recipe(recipe)
    with session_of(context).client() as client:
        computed = client.plan(document)
    if json:
        print_json(computed)
        return
    memory = computed.memory
    rows = [
        ("model", f"{quantity(computed.parameters)} parameters ({quantity(computed.embedding_parameters)} embedding)"),
        ("compute", f"{quantity(computed.flops_per_token)}FLOP a token"),
        ("data", f"{quantity(computed.tokens)} tokens, {computed.tokens_per_parameter:.1f} a parameter"),
        ("optimum", f"{quantity(computed.compute_optimal_tokens)} tokens would be compute-optimal for this size"),
        ("steps", f"{computed.steps} of {quantity(computed.tokens_per_step)} tokens"),
        ("layout", computed.layout),
        ("memory", f"{size(memory.total)} of {size(memory.available)} a GPU{'' if memory.fits else ': DOES NOT FIT'}"),
        ("speed", f"{quantity(computed.tokens_per_second)} tokens/s ({computed.assumptions})"),
        ("time", duration(computed.training_time.seconds)),
        *((line.item, f"{line.gpu_hours:,.2f} GPU-hours {line.note}") for line in computed.ledger),
        ("cost", f"{computed.cost:,.2f}" if computed.cost else "no price given (resources.price_per_gpu_hour)"),
        ("checkpoint", size(computed.checkpoint_bytes)),
    ]
    print_table(["PLAN", document.name], rows, empty="")
    for warning in computed.warnings:
        print_labelled("warning:", warning, style="yellow")
    for question in computed.compass:
        if not question.answered:
            print_labelled("asked:", f"{question.question} {question.advice}", style="bold")
    console.print(f"\nnext: longhaul run {recipe}")


def run(
    context: typer.Context,
    recipe: RecipeArgument,
    name: Annotated[str, typer.Option(help="Name of a new run for what differs from an earlier submission.")] = "",
    detach: Annotated[bool, typer.Option("--detach", help="Submit and return.")] = False,
    json: JsonOption = False,
) -> None:
    """Submit a recipe and watch it. Stop watching at any time: the services go on. Run again, it attaches.

    Exit code 0 when everything succeeded, 1 when something failed.

    Examples: longhaul run recipe.yaml · longhaul run recipe.yaml --name second-try
    """
    document = read_recipe(recipe)
    with session_of(context).client() as client:
        with upload_progress(quiet=json) as report:
            pipeline = submit(client, document, new_name=name, report=report)
        if detach:
            _print_submitted(pipeline, json=json)
            return
        if not json:
            console.print(f"submitted {pipeline.run}; it goes on without this command")
        watch = PipelineWatch(client, pipeline)
        if json:
            for _ in watch:
                pass
        else:
            show(watch, console)
        state = watch.state
        refreshed = call(client.runs.GetTrainingRun, training_run_pb2.GetTrainingRunRequest(name=pipeline.run))
        if json:
            print_json(
                {
                    "succeeded": state.succeeded,
                    "ingestion": state.ingestion,
                    "corpus_build": state.corpus_build,
                    "training_run": refreshed,
                    "evaluation_suite": state.suite,
                }
            )
        else:
            summary.print_summary(client, pipeline, state)
            summary.print_end(state, name or document.name)
    if not state.succeeded:
        raise typer.Exit(ExitCode.FAILED)


def _print_submitted(pipeline: Pipeline, *, json: bool) -> None:
    if json:
        print_json({"training_run": pipeline.run, "ingestion": pipeline.ingestion, "corpus": pipeline.corpus_build})
        return
    console.print(f"submitted {pipeline.run}")
    console.print(f"next: longhaul runs watch {pipeline.run.rpartition('/')[2]}")


def register(app: typer.Typer) -> None:
    """Add the commands to the main one."""
    app.command()(plan)
    app.command()(run)
