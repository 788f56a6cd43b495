"""`longhaul report`."""

from pathlib import Path
from typing import Annotated

import typer

from longhaul_client.cli.output import console
from longhaul_client.cli.session import session_of
from longhaul_client.report import collect, render


def report(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="Id or full name of the run.", metavar="RUN")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write it.")] = Path("report.html"),
) -> None:
    """Write the report of a run as one self-contained HTML file.

    Example: longhaul report my-run -o report.html
    """
    session = session_of(context)
    with session.client() as client:
        page = render(collect(client, session.resource(run, "trainingRuns")))
    temporary = output.with_name(f".{output.name}.tmp")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(output)
    console.print(f"report: {output}")


def register(app: typer.Typer) -> None:
    """Add the command to the main one."""
    app.command()(report)
