"""`longhaul evals`: list, show, curve, compare."""

from typing import Annotated

import typer
from longhaul.common.v1 import resource_pb2
from longhaul.evaluation.v1 import evaluation_pb2

from longhaul_client.cli.output import JsonOption, console, print_json, print_table
from longhaul_client.cli.session import session_of
from longhaul_client.cli.summary import print_scores
from longhaul_client.formatting import short_name, state_name
from longhaul_client.sdk import call, pages

app = typer.Typer(no_args_is_help=True, help="Scores of checkpoints, with error bars.")

EvaluationArgument = Annotated[str, typer.Argument(help="Id or full name.", metavar="EVALUATION")]
COLLECTION = "evaluations"


def _state(evaluation: evaluation_pb2.Evaluation) -> str:
    return state_name(resource_pb2.JobState.Name(evaluation.status.state), "JOB_STATE_")


@app.command("list")
def list_evaluations(
    context: typer.Context,
    run: Annotated[str, typer.Option(help="Only of this run.")] = "",
    json: JsonOption = False,
) -> None:
    """List evaluations, newest first.

    Example: longhaul evals list --run my-run
    """
    session = session_of(context)
    request = evaluation_pb2.ListEvaluationsRequest(
        parent=session.parent, training_run=session.resource(run, "trainingRuns") if run else ""
    )
    with session.client() as client:
        found = list(pages(client.evaluations.ListEvaluations, request, "evaluations"))
    if json:
        print_json(found)
        return
    rows = [
        (short_name(e.metadata.name), _state(e), e.status.step, len(e.status.scores), e.status.reason.message)
        for e in found
    ]
    print_table(["EVALUATION", "STATE", ">STEP", ">SCORES", "REASON"], rows, empty="no evaluations")


@app.command("show")
def show_evaluation(context: typer.Context, evaluation: EvaluationArgument, json: JsonOption = False) -> None:
    """Show the scores of one evaluation.

    Example: longhaul evals show my-run-step-00000100-e1
    """
    session = session_of(context)
    with session.client() as client:
        request = evaluation_pb2.GetEvaluationRequest(name=session.resource(evaluation, COLLECTION))
        found = call(client.evaluations.GetEvaluation, request)
    if json:
        print_json(found)
        return
    console.print(f"{short_name(found.metadata.name)}: {_state(found)} {found.status.reason.message}".rstrip())
    rows = [
        (
            score.task,
            f"{score.few_shot}-shot",
            score.metric,
            f"{score.value:.4f} ± {score.standard_error:.4f}",
            f"{score.chance:.2f}" if score.HasField("chance") else "-",
            score.items,
        )
        for score in found.status.scores
    ]
    print_table(["TASK", "", "METRIC", ">SCORE", ">CHANCE", ">ITEMS"], rows, empty="no scores yet")


@app.command("curve")
def curve(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="Id or full name of the run.", metavar="RUN")],
    json: JsonOption = False,
) -> None:
    """Show the scores of a run's checkpoints over its steps.

    Example: longhaul evals curve my-run
    """
    session = session_of(context)
    with session.client() as client:
        request = evaluation_pb2.GetScoreCurveRequest(training_run=session.resource(run, "trainingRuns"))
        found = call(client.evaluations.GetScoreCurve, request)
    if json:
        print_json(found)
        return
    print_scores(found)
    console.print()
    rows = [(q.task, f"{q.few_shot}-shot", q.metric, f"{q.spearman:+.2f}", _above_chance(q)) for q in found.quality]
    print_table(["TASK", "", "METRIC", ">RISES WITH STEPS (SPEARMAN)", "ABOVE CHANCE"], rows, empty="")


def _above_chance(quality: evaluation_pb2.TaskQuality) -> str:
    if not quality.HasField("above_chance"):
        return "-"
    return "yes" if quality.above_chance else "no"


@app.command("compare")
def compare(
    context: typer.Context,
    first: EvaluationArgument,
    second: EvaluationArgument,
    json: JsonOption = False,
) -> None:
    """Compare two evaluations item by item: paired differences with clustered errors.

    Example: longhaul evals compare my-run-step-00000100-e1 my-run-step-00000300-e2
    """
    session = session_of(context)
    with session.client() as client:
        request = evaluation_pb2.CompareEvaluationsRequest(
            first=session.resource(first, COLLECTION), second=session.resource(second, COLLECTION)
        )
        answer = call(client.evaluations.CompareEvaluations, request)
    if json:
        print_json(answer)
        return
    rows = [
        (
            d.task,
            f"{d.few_shot}-shot",
            d.metric,
            f"{d.first:.4f}",
            f"{d.second:.4f}",
            f"{d.difference:+.4f} ± {d.standard_error:.4f}",
            f"[{d.interval_low:+.4f}, {d.interval_high:+.4f}]".replace("[", r"\["),
        )
        for d in answer.differences
    ]
    columns = ["TASK", "", "METRIC", ">FIRST", ">SECOND", ">DIFFERENCE", ">95 % INTERVAL"]
    print_table(columns, rows, empty="no task in common")
