"""The `longhaul` command."""

import sys
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from longhaul_core.errors import LonghaulError
from longhaul_core.rpc.client import from_rpc_error

from longhaul_client.cli import checkpoints, context, data, evals, nodes, report, run, runs, up
from longhaul_client.cli.exit_codes import ExitCode, exit_code_of
from longhaul_client.cli.output import error_console, print_error
from longhaul_client.cli.session import Session
from longhaul_client.connection import DATA_DIR_VARIABLE, DEFAULT_DATA_DIR
from longhaul_client.contexts import contexts_file, read_contexts

# typer carries a click of its own and exports only some of its errors; this is the parent of those of usage.
UsageError: Any = typer.BadParameter.__base__

app = typer.Typer(
    name="longhaul",
    help="From raw text to a trained, evaluated language model, through months of faults.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    epilog="Example: `longhaul up --nodes 4`, then `longhaul run recipe.yaml`. Each command has examples in `--help`.",
)


@app.callback()
def main_options(
    context: typer.Context,
    data_dir: Annotated[
        Path | None, typer.Option(envvar=DATA_DIR_VARIABLE, help="Folder of the local installation.")
    ] = None,
    project: Annotated[
        str | None, typer.Option(envvar="LONGHAUL_PROJECT", help="Project of the resources; else the context's.")
    ] = None,
    installation: Annotated[
        str, typer.Option("--context", envvar="LONGHAUL_CONTEXT", help="Another installation than the current one.")
    ] = "",
) -> None:
    """Set what every command shares. A data folder that is named means this machine, whatever context is current."""
    cluster = None
    if context.invoked_subcommand not in {"context", "token", "up", "down"} and (installation or data_dir is None):
        known = read_contexts(contexts_file())
        cluster = known.get(installation or known.current)
    context.obj = Session(
        data_dir=(data_dir or Path(DEFAULT_DATA_DIR)).absolute(),
        project=project or (cluster.project if cluster is not None else "default"),
        cluster=cluster,
    )


up.register(app)
context.register(app)
run.register(app)
report.register(app)
app.add_typer(runs.app, name="runs")
app.add_typer(data.datasets_app, name="datasets")
app.add_typer(data.tokenizers_app, name="tokenizers")
app.add_typer(checkpoints.app, name="checkpoints")
app.add_typer(evals.app, name="evals")
app.add_typer(nodes.app, name="nodes")


def main() -> int:
    """Run the command; errors are one message and a stable exit code, never a traceback."""
    try:
        result = app(standalone_mode=False)
    except LonghaulError as error:
        print_error(error)
        return int(exit_code_of(error.code))
    except grpc.RpcError as error:
        failure = from_rpc_error(error)
        print_error(failure)
        return int(exit_code_of(failure.code))
    except typer.Exit as stop:
        return int(stop.exit_code)
    except UsageError as error:
        error.show()
        return int(ExitCode.USAGE)
    except (KeyboardInterrupt, typer.Abort):
        error_console.print("interrupted; what was submitted goes on. `longhaul runs list` shows it")
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        return int(ExitCode.OK)
    return int(result) if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
