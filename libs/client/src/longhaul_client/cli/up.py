"""`longhaul up`, `down`, `status`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from longhaul_client.cli.exit_codes import ExitCode
from longhaul_client.cli.output import JsonOption, console, print_json, print_table
from longhaul_client.cli.session import Session, session_of
from longhaul_client.connection import local_connection
from longhaul_client.local import UpOptions, control, load_layout
from longhaul_client.local.layout import DEFAULT_PORT_BASE
from longhaul_client.probing import probe


def _port_base(value: str) -> str:
    if value != "auto" and not (value.isdigit() and 1024 <= int(value) <= 65_000):
        raise typer.BadParameter(f"{value!r} is neither 'auto' nor a port from 1024 to 65000")
    return value


def up(
    context: typer.Context,
    nodes: Annotated[int, typer.Option(min=1, max=64, help="Pretend nodes to run pods on.")] = 1,
    gpus_per_node: Annotated[int, typer.Option(min=1, max=16, help="GPUs (or CPU workers) a node.")] = 1,
    port_base: Annotated[str, typer.Option(callback=_port_base, help="First port; 'auto' finds a free range.")] = str(
        DEFAULT_PORT_BASE
    ),
    workers: Annotated[int, typer.Option(min=0, help="Worker processes of ingest and of corpus; 0: one a core.")] = 0,
    scenario: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="What the GPU exporter plays; else all is well."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Start the six services on this machine, in the background; returns when all answer.

    Run again, it starts what is missing and keeps what runs.

    Example: longhaul up --nodes 4
    """
    session = session_of(context)
    options = UpOptions(
        port_base=control.AUTO_PORTS if port_base == "auto" else int(port_base),
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        workers=workers,
        scenario=str(scenario.absolute()) if scenario else "",
    )
    sources = {name: context.get_parameter_source(name) for name in asdict(options)}
    given = frozenset(name for name, source in sources.items() if source is not None and source.name != "DEFAULT")
    layout, ran_already = control.up(session.data_dir, options, given=given)
    if json:
        print_json({"already_running": ran_already, "addresses": layout.addresses, "metrics": layout.metrics_addresses})
        return
    console.print(f"longhaul is {'already ' if ran_already else ''}up on {session.data_dir}")
    _print_processes(control.status(layout))
    console.print("\nnext: longhaul run RECIPE.yaml   ·   longhaul status   ·   longhaul down")


def down(context: typer.Context) -> None:
    """Stop everything that `longhaul up` started. Data is kept.

    Example: longhaul down
    """
    session = session_of(context)
    stopped = control.down(session.data_dir)
    console.print(f"longhaul is down on {session.data_dir}" if stopped else f"nothing runs on {session.data_dir}")


def status(context: typer.Context, json: JsonOption = False) -> None:
    """Show which processes run and which services answer; exit code 1 unless all do.

    Example: longhaul status --json
    """
    session = session_of(context)
    if session.cluster is not None:
        _show_cluster(session, json)
        return
    layout = load_layout(session.data_dir)
    if layout is None:
        local_connection(session.data_dir)
        return
    rows = control.status(layout)
    if json:
        print_json([asdict(row) for row in rows])
    else:
        _print_processes(rows)
    if not all(row.serving for row in rows):
        raise typer.Exit(ExitCode.FAILED)


def _show_cluster(session: Session, json: bool) -> None:
    """Ask each service of another installation something small, with the user's token."""
    with session.client() as client:
        rows = [probe(client, name, session.parent) for name in client.connection.addresses]
    if json:
        print_json([asdict(row) for row in rows])
    else:
        print_table(["NAME", "STATE", "ADDRESS"], [(row.name, row.state, row.address) for row in rows], empty="none")
    if not all(row.serving for row in rows):
        raise typer.Exit(ExitCode.FAILED)


def _print_processes(rows: list[control.ProcessStatus]) -> None:
    states = {(True, True): "serving", (True, False): "not serving"}
    print_table(
        ["NAME", "STATE", "ADDRESS", ">PID"],
        [(row.name, states.get((row.alive, row.serving), "dead"), row.address, row.pid or "-") for row in rows],
        empty="no processes",
    )


def register(app: typer.Typer) -> None:
    """Add the commands to the main one."""
    app.command()(up)
    app.command()(down)
    app.command()(status)
