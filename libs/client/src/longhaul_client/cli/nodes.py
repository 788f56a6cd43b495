"""`longhaul nodes`: health of the nodes, why one is out, and putting it back."""

import getpass
from typing import Annotated

import typer
from longhaul.gpuhealth.v1 import node_health_pb2
from rich.text import Text

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
            age(health.last_scrape_time),
            health.reason.message,
        )
        for health in nodes
    ]
    print_table(["NODE", "STATE", "SCHEDULABLE", ">GPUS", ">SCRAPED", "REASON"], rows, empty="no nodes")
    if nodes:
        console.print()
        _print_heat_map(nodes)


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
        console.print(f"  {sentence}".replace("[", r"\["))


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
            state_name(node_health_pb2.HealthAction.Name(rule.action), "HEALTH_ACTION_"),
        )
        for rule in answer.rules
    ]
    print_table(["RULE", "CONDITION", "SEVERITY", "ACTION"], rows, empty="no rules")
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
