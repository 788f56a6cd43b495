"""`longhaul checkpoints reproduce`: what is needed to compute on from a checkpoint as it was computed."""

import json as json_module
import platform
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
import yaml
from google.protobuf.json_format import MessageToDict
from longhaul.checkpoint.v1 import checkpoint_pb2
from longhaul.training.v1 import training_run_pb2

from longhaul_client.cli.output import JsonOption, console, print_json, print_table
from longhaul_client.cli.session import session_of
from longhaul_client.formatting import short_name
from longhaul_client.sdk import call

PREFIX = "environment."


def reproduce(
    context: typer.Context,
    checkpoint: Annotated[str, typer.Argument(help="Id or full name.", metavar="CHECKPOINT")],
    folder: Annotated[Path, typer.Option(help="Where to write; made if missing.")] = Path("reproduce"),
    json: JsonOption = False,
) -> None:
    """Write the recipe that goes on from a checkpoint, and the environment it was computed in; say what differs here.

    Submitted with the same packages, kind of machine, ranks and threads, it computes the same losses bit for bit.

    Example: longhaul checkpoints reproduce my-run-step-00000100-e1 --folder again
    """
    session = session_of(context)
    with session.client() as client:
        found = call(
            client.checkpoints.GetCheckpoint,
            checkpoint_pb2.GetCheckpointRequest(name=session.resource(checkpoint, "checkpoints")),
        )
        request = training_run_pb2.GetTrainingRunRequest(name=found.training_run)
        run = call(client.runs.GetTrainingRun, request)
    lineage = MessageToDict(found.lineage)
    recorded = {name.removeprefix(PREFIX): str(v) for name, v in lineage.items() if name.startswith(PREFIX)}
    document = yaml.safe_load(run.spec.recipe)
    document["name"] = f"{short_name(found.training_run)}-again-{found.step}"
    document.setdefault("training", {})["start"] = {
        "checkpoint": found.metadata.name,
        "manifest_key": found.manifest_key,
        "manifest_digest": found.digest,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    (folder / "environment.json").write_text(json_module.dumps(lineage, indent=1, sort_keys=True), encoding="utf-8")
    here = _here()
    different = {name: (recorded[name], here[name]) for name in here if recorded.get(name, here[name]) != here[name]}
    if json:
        print_json({"folder": str(folder), "recorded": recorded, "different": different})
        return
    rows = [(name, recorded[name], here.get(name, "-")) for name in sorted(recorded)]
    print_table(["ENVIRONMENT", "RECORDED", "HERE"], rows, empty="the checkpoint records no environment")
    for name, (then, now) in different.items():
        console.print(f"[yellow]differs:[/] {name} was {then}, is {now} here")
    console.print(f"next: longhaul run {folder / 'recipe.yaml'} --name {document['name']}")


def _here() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("torch", "numpy", "safetensors"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
