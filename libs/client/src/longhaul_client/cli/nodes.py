"""`longhaul nodes`: health of the nodes, why one is out, and putting it back."""

import getpass
import time
from typing import Annotated

import typer
from longhaul.gpuhealth.v1 import node_health_pb2
from rich.text import Text

from longhaul_client.cli import node_views
from longhaul_client.cli.output import JsonOption, console, print_json, print_table
from longhaul_client.cli.session import session_of
from longhaul_client.formatting import age, state_name
from longhaul_client.sdk import Client, call, pages

app = typer.Typer(invoke_without_command=True, help="Health of the nodes and their GPUs.")

NodeArgument = Annotated[str, typer.Argument(help="Name of the node.", metavar="NODE")]

_COLOURS = {
    node_health_pb2.HEALTH_STATE_HEALTHY: "green",
    node_health_pb2.HEALTH_STATE_SUSPECT: "yellow",
    node_health_pb2.HEALTH_STATE_DEGRADED: "dark_orange",
    node_health_pb2.HEALTH_STATE_FATAL: "red",
    node_health_pb2.HEALTH_STATE_QUARANTINED: "magenta",
    node_health_pb2.HEALTH_STATE_RECOVERING: "cyan",
}


def _state(state: node_health_pb2.HealthState.ValueType) -> str:
    return state_name(node_health_pb2.HealthState.Name(state), "HEALTH_STATE_")


def list_health(client: Client) -> list[node_health_pb2.NodeHealth]:
    """Read the health of all nodes."""
    return list(pages(client.nodes.ListNodeHealth, node_health_pb2.ListNodeHealthRequest(), "nodes"))


@app.callback()
def show_nodes(context: typer.Context, json: JsonOption = False) -> None:
    """Show the nodes and a heat map of their GPUs.

    Examples: longhaul nodes · longhaul nodes explain node-1
    """
    if context.invoked_subcommand is not None:
        return
    with session_of(context).client() as client:
        nodes = list_health(client)
    if json:
        print_json(nodes)
        return
    rows = [
        (
            health.node,
            _state(health.state),
            "yes" if health.schedulable else "no",
            len(health.gpus),
            ", ".join(sorted({gpu.job.run for gpu in health.gpus if gpu.job.run})),
            age(health.last_scrape_time),
            _reason(health),
        )
        for health in nodes
    ]
    print_table(["NODE", "STATE", "SCHEDULABLE", ">GPUS", "RUN", ">SCRAPED", "REASON"], rows, empty="no nodes")
    if nodes:
        console.print()
        _print_heat_map(nodes)


def _reason(health: node_health_pb2.NodeHealth) -> str:
    """Why, and how far the repair is."""
    if not health.repair.session:
        return health.reason.message
    stage = state_name(node_health_pb2.RepairStage.Name(health.repair.stage), "REPAIR_STAGE_")
    return f"{health.reason.message}; {stage}{': ' if health.repair.message else ''}{health.repair.message}"


def _print_heat_map(nodes: list[node_health_pb2.NodeHealth]) -> None:
    """Print one cell a GPU: its temperature, in the colour of its state."""
    width = max(len(health.node) for health in nodes)
    for health in nodes:
        line = Text(f"{health.node:<{width}} ")
        for gpu in health.gpus:
            # A node that is out is out as a whole, whatever its GPUs say.
            out = health.state == node_health_pb2.HEALTH_STATE_QUARANTINED
            colour = _COLOURS.get(health.state if out else gpu.state, "bright_black")
            temperature = gpu.signals.get("temperature_celsius")
            line.append(f" {temperature:3.0f}° " if temperature is not None else "  ?  ", style=f"black on {colour}")
            line.append(" ")
        console.print(line)


@app.command("explain")
def explain(context: typer.Context, node: NodeArgument, json: JsonOption = False) -> None:
    """Say why a node has its state: samples, rules, verdicts, actions.

    Example: longhaul nodes explain node-1
    """
    with session_of(context).client() as client:
        answer = call(client.nodes.ExplainVerdict, node_health_pb2.ExplainVerdictRequest(name=f"nodes/{node}"))
    if json:
        print_json(answer)
        return
    console.print(f"{node}: {_state(answer.node.state)}")
    for sentence in answer.explanation:
        console.print(f"  {sentence}")


@app.command("rules")
def rules(context: typer.Context, json: JsonOption = False) -> None:
    """List the rules in force.

    Example: longhaul nodes rules
    """
    with session_of(context).client() as client:
        answer = call(client.nodes.ListRules, node_health_pb2.ListRulesRequest())
    if json:
        print_json(answer)
        return
    rows = [
        (
            rule.id,
            rule.condition,
            state_name(node_health_pb2.Severity.Name(rule.severity), "SEVERITY_"),
            state_name(node_health_pb2.HealthAction.Name(rule.action), "HEALTH_ACTION_")
            + (" when idle" if rule.when_idle else "")
            + (" (shadow)" if rule.shadow else ""),
            state_name(node_health_pb2.Remedy.Name(rule.remedy), "REMEDY_"),
        )
        for rule in answer.rules
    ]
    print_table(["RULE", "CONDITION", "SEVERITY", "ACTION", "REMEDY"], rows, empty="no rules")
    console.print(f"version {answer.version}" + (f"; not loaded: {answer.load_error}" if answer.load_error else ""))


@app.command("quarantine")
def quarantine(
    context: typer.Context,
    node: NodeArgument,
    reason: Annotated[str, typer.Option(help="Why; kept with the node.")],
    force: Annotated[bool, typer.Option("--force", help="Beyond the budget too.")] = False,
) -> None:
    """Take a node out by hand.

    Example: longhaul nodes quarantine node-1 --reason "fan is loud"
    """
    with session_of(context).client() as client:
        request = node_health_pb2.QuarantineNodeRequest(
            name=f"nodes/{node}", reason=reason, author=getpass.getuser(), force=force
        )
        health = call(client.nodes.QuarantineNode, request)
    console.print(f"{node}: {_state(health.state)}")


@app.command("release")
def release(
    context: typer.Context, node: NodeArgument, reason: Annotated[str, typer.Option(help="Why; kept.")] = ""
) -> None:
    """Put a node back; only marks of longhaul are undone.

    Example: longhaul nodes release node-1
    """
    with session_of(context).client() as client:
        request = node_health_pb2.ReleaseNodeRequest(name=f"nodes/{node}", reason=reason, author=getpass.getuser())
        health = call(client.nodes.ReleaseNode, request)
    console.print(f"{node}: {_state(health.state)}")


@app.command("override")
def override(
    context: typer.Context,
    node: NodeArgument,
    state: Annotated[str, typer.Option(help="healthy, quarantined, or none to end the override.")],
    reason: Annotated[str, typer.Option(help="Why; kept with the node.")] = "",
    hours: Annotated[float, typer.Option(min=0.0, help="For how long; 0: until it is taken back.")] = 0.0,
) -> None:
    """Overrule the verdict of a node.

    Example: longhaul nodes override node-1 --state healthy --reason "sensor is broken" --hours 24
    """
    request = node_health_pb2.SetNodeOverrideRequest(name=f"nodes/{node}")
    if state != "none":
        request.override.state = _wanted_state(state)
        request.override.reason, request.override.author = reason, getpass.getuser()
        if hours:
            request.override.expire_time.FromSeconds(int(time.time() + hours * 3600))
    with session_of(context).client() as client:
        health = call(client.nodes.SetNodeOverride, request)
    console.print(f"{node}: {_state(health.state)}")


def _wanted_state(text: str) -> node_health_pb2.HealthState.ValueType:
    states = {"healthy": node_health_pb2.HEALTH_STATE_HEALTHY, "quarantined": node_health_pb2.HEALTH_STATE_QUARANTINED}
    if text not in states:
        raise typer.BadParameter(f"{text!r} is none of healthy, quarantined, none", param_hint="--state")
    return states[text]


@app.command("burn-in")
def burn_in(context: typer.Context, node: NodeArgument) -> None:
    """Ask for a burn-in of a node; training runs it once the GPUs are free.

    A node that is out for repair is released if it passes. `longhaul nodes explain NODE` shows the result.

    Example: longhaul nodes burn-in node-1
    """
    request = node_health_pb2.RequestBurnInRequest(name=f"nodes/{node}", author=getpass.getuser())
    with session_of(context).client() as client:
        health = call(client.nodes.RequestBurnIn, request)
    console.print(f"{node}: {_state(health.state)}, burn-in {health.burn_in.session} asked for")


app.command("ranks")(node_views.ranks)
app.command("budget")(node_views.budget)
app.command("replay")(node_views.replay)
