"""Views of `longhaul nodes` beside the table: ranks of a run, the budget, what rules would have done."""

import getpass
import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.json_format import ParseDict, ParseError
from longhaul.gpuhealth.v1 import node_health_pb2
from longhaul.training.v1 import training_run_pb2
from longhaul_core.errors import InvalidArgument, LonghaulError

from longhaul_client.cli.output import JsonOption, console, print_json, print_table
from longhaul_client.cli.session import session_of
from longhaul_client.formatting import state_name
from longhaul_client.sdk import Client, call
from longhaul_client.stragglers import OWN_STEP_SECONDS, add_step_times

RunArgument = Annotated[str, typer.Argument(help="Id or name of the run.", metavar="RUN")]

OUT_OF_LINE = 3.0
"""Robust deviations from which a figure is marked."""

_COMPARED = {
    OWN_STEP_SECONDS: "OWN TIME",
    "sm_clock_mhz": "CLOCK",
    "power_watts": "POWER",
    "utilization_percent": "USE",
    "temperature_celsius": "HEAT",
}


def ranks(context: typer.Context, run: RunArgument, json: JsonOption = False) -> None:
    """Compare the ranks of a run with one another: who is out of line holds all others up.

    OWN TIME is what a rank itself spends on a step, in milliseconds, while the others wait for it; clock, power, use
    and heat are those of its GPU. Figures are followed by their distance from the run's median in robust deviations,
    where that is more than three.

    Example: longhaul nodes ranks my-run
    """
    session = session_of(context)
    name = session.resource(run, "trainingRuns")
    with session.client() as client:
        answer = call(client.nodes.CompareRanks, node_health_pb2.CompareRanksRequest(run=name))
        untimed = _add_step_times(client, name, answer)
    if json:
        print_json(answer)
        return
    signals = [signal for signal in _COMPARED if signal in answer.medians]
    rows = [
        (
            one.rank if one.rank >= 0 else "?",
            one.node,
            one.gpu if one.gpu >= 0 else "?",
            state_name(node_health_pb2.HealthState.Name(one.state), "HEALTH_STATE_"),
            *(_compared(one, signal) for signal in signals),
            ", ".join(one.rules),
        )
        for one in answer.ranks
    ]
    headings = [">RANK", "NODE", ">GPU", "STATE", *(f">{_COMPARED[signal]}" for signal in signals), "RULES"]
    print_table(headings, rows, empty="no GPU is known to work for this run")
    if untimed:
        console.print(f"without step times: {untimed}")


def _add_step_times(client: Client, run: str, answer: node_health_pb2.CompareRanksResponse) -> str:
    """Ask training for the ranks' times; why there are none. GPUs are compared without it too."""
    try:
        found = call(client.runs.GetTrainingRun, training_run_pb2.GetTrainingRunRequest(name=run))
    except LonghaulError as error:
        return str(error)
    add_step_times(answer, found.status.ranks)
    return ""


def _compared(one: node_health_pb2.RankComparison, signal: str) -> str:
    if signal not in one.signals:
        return "-"
    distance = one.deviations.get(signal, 0.0)
    value = one.signals[signal] * (1000 if signal == OWN_STEP_SECONDS else 1)
    return f"{value:.0f}" + (f" ({distance:+.0f}σ)" if abs(distance) > OUT_OF_LINE else "")


def budget(
    context: typer.Context,
    reset: Annotated[bool, typer.Option("--reset-breaker", help="Close the breaker.")] = False,
    json: JsonOption = False,
) -> None:
    """Show what is left of the quarantine budget, or close its breaker after a storm.

    Example: longhaul nodes budget --reset-breaker
    """
    with session_of(context).client() as client:
        if reset:
            answer = call(client.nodes.ResetBreaker, node_health_pb2.ResetBreakerRequest(author=getpass.getuser()))
        else:
            answer = call(client.nodes.GetBudget, node_health_pb2.GetBudgetRequest())
    if json:
        print_json(answer)
        return
    window = answer.window.ToTimedelta()
    console.print(
        f"{answer.quarantined_in_window} of at most {answer.limit_in_window} nodes taken out in {window}; "
        f"{answer.nodes} nodes in all"
    )
    if answer.waiting:
        console.print(f"waiting: {', '.join(answer.waiting)}")
    if answer.breaker_open:
        console.print(
            "the breaker is open: nothing is taken out; look why, then: longhaul nodes budget --reset-breaker"
        )


def replay(
    context: typer.Context,
    samples: Annotated[Path, typer.Argument(help="JSON: a list of samples, as in the evidence of `nodes --json`.")],
    rules_file: Annotated[Path | None, typer.Option("--rules", help="Rules to try; default: those in force.")] = None,
    nodes: Annotated[int, typer.Option(min=0, help="Nodes of the imagined cluster; 0: those of the samples.")] = 0,
    json: JsonOption = False,
) -> None:
    """Run recorded samples through a rule set: what would have happened? No node is touched.

    Example: longhaul nodes replay samples.json --rules candidate.yaml
    """
    request = node_health_pb2.ReplaySignalsRequest(nodes=nodes)
    try:
        ParseDict({"samples": jsonlib.loads(samples.read_text(encoding="utf-8"))}, request)
        request.rules_yaml = rules_file.read_text(encoding="utf-8") if rules_file else ""
    except (OSError, ValueError, ParseError) as error:
        raise InvalidArgument(f"cannot be replayed: {error}", violations=[("samples", str(error))]) from None
    with session_of(context).client() as client:
        answer = call(client.nodes.ReplaySignals, request)
    if json:
        print_json(answer)
        return
    rows = [
        (f"{one.time.ToDatetime():%Y-%m-%d %H:%M:%S}", one.resource, one.type, one.message) for one in answer.events
    ]
    print_table(["TIME", "NODE", "WHAT", "MESSAGE"], rows, empty="nothing would have happened")
    console.print(f"quarantined: {', '.join(answer.quarantined) or 'none'}")
