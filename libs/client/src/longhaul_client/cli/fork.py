"""`longhaul runs fork`: a new run from a checkpoint of another, with parts swapped."""

from pathlib import Path
from typing import Annotated

import typer
import yaml
from longhaul.checkpoint.v1 import checkpoint_pb2
from longhaul.training.v1 import training_run_pb2
from longhaul_core.errors import FailedPrecondition

from longhaul_client.cli.output import JsonOption, console, print_json
from longhaul_client.cli.session import session_of
from longhaul_client.pipeline import submit_run
from longhaul_client.recipes import parse_recipe
from longhaul_client.recipes.changes import apply_changes
from longhaul_client.sdk import call


def fork(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="Id or full name of the run.", metavar="RUN")],
    step: Annotated[int, typer.Option(help="Newest checkpoint of at most this step; 0: the latest.")] = 0,
    changes: Annotated[list[str] | None, typer.Option("--set", help="key=value; may be given several times.")] = None,
    name: Annotated[str, typer.Option(help="Id of the new run.")] = "",
    weights_only: Annotated[bool, typer.Option(help="Start at step 0 with fresh optimizer state.")] = False,
    json: JsonOption = False,
) -> None:
    """Start a new run from a checkpoint, on the same token set; the checkpoint is pinned and recorded as parent.

    Short keys: lr, optimizer, activation, norm, position, schedule, steps. Tensors that the change gives another shape
    or another meaning start anew.

    Example: longhaul runs fork my-run --step 1000 --set optimizer=muon --set lr=0.002
    """
    session = session_of(context)
    with session.client() as client:
        parent = call(
            client.runs.GetTrainingRun,
            training_run_pb2.GetTrainingRunRequest(name=session.resource(run, "trainingRuns")),
        )
        if not parent.spec.recipe:
            raise FailedPrecondition(f"{run} keeps no recipe to change", action="submit a recipe with training.start")
        request = checkpoint_pb2.GetLatestCheckpointRequest(training_run=parent.metadata.name, maximum_step=step)
        source = call(client.checkpoints.GetLatestCheckpoint, request)
        document = apply_changes(yaml.safe_load(parent.spec.recipe), changes or [])
        identifier = name or f"{run.rpartition('/')[2]}-fork-{source.step}"
        document["name"] = identifier
        document.setdefault("training", {})["start"] = {
            "checkpoint": source.metadata.name,
            "manifest_key": source.manifest_key,
            "manifest_digest": source.digest,
            "keep_optimizer": not weights_only,
            "keep_progress": not weights_only,
        }
        recipe = parse_recipe(yaml.safe_dump(document, sort_keys=False), origin="--set", folder=Path.cwd())
        call(client.checkpoints.PinCheckpoint, checkpoint_pb2.PinCheckpointRequest(name=source.metadata.name))
        created = submit_run(client, recipe, parent.spec.token_set)
    if json:
        print_json(created)
        return
    console.print(f"{created.metadata.name} goes on from {source.metadata.name}, which is pinned")
    console.print(f"next: longhaul runs watch {identifier}")
