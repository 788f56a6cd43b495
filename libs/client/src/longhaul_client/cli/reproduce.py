"""`longhaul checkpoints reproduce`: rebuild what a checkpoint was computed with, and compute on from it."""

import json as json_module
import platform
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from google.protobuf.json_format import MessageToDict
from longhaul.checkpoint.v1 import checkpoint_pb2
from longhaul.training.v1 import training_run_pb2
from longhaul_core.errors import NotFound

from longhaul_client.cli.output import JsonOption, console, print_json, print_labelled, print_table
from longhaul_client.cli.session import session_of
from longhaul_client.formatting import short_name
from longhaul_client.pipeline import submit_run
from longhaul_client.recipes import parse_recipe
from longhaul_client.sdk import Client, call

PREFIX = "environment."


def reproduce(
    context: typer.Context,
    checkpoint: Annotated[str, typer.Argument(help="Id or full name.", metavar="CHECKPOINT")],
    folder: Annotated[Path, typer.Option(help="Where to write; made if missing.")] = Path("reproduce"),
    start: Annotated[bool, typer.Option("--start", help="Submit the run as well, on the same token set.")] = False,
    json: JsonOption = False,
) -> None:
    """Write the recipe, the packages and the code changes that a checkpoint was computed with; say what differs here.

    With the same image or packages, kind of machine, ranks and threads, the run that goes on from the checkpoint
    computes the same losses bit for bit.

    Example: longhaul checkpoints reproduce my-run-step-00000100-e1 --folder again --start
    """
    session = session_of(context)
    with session.client() as client:
        name = session.resource(checkpoint, "checkpoints")
        found = call(client.checkpoints.GetCheckpoint, checkpoint_pb2.GetCheckpointRequest(name=name))
        run = call(client.runs.GetTrainingRun, training_run_pb2.GetTrainingRunRequest(name=found.training_run))
        record = _record(client, name)
        document = _recipe(run, found)
        files = _write(folder, document, MessageToDict(found.lineage), record)
        if start:
            recipe = parse_recipe(yaml.safe_dump(document, sort_keys=False), origin="reproduce", folder=Path.cwd())
            submit_run(client, recipe, run.spec.token_set)
    recorded = _recorded(found, record)
    here = _here()
    different = {key: (recorded[key], here[key]) for key in here if recorded.get(key, here[key]) != here[key]}
    if json:
        print_json(
            {
                "folder": str(folder),
                "files": files,
                "run": document["name"],
                "recorded": recorded,
                "different": different,
            }
        )
        return
    rows = [(key, recorded[key], here.get(key, "-")) for key in sorted(recorded)]
    print_table(["ENVIRONMENT", "RECORDED", "HERE"], rows, empty="the checkpoint records no environment")
    for key, (then, now) in different.items():
        print_labelled("differs:", f"{key} was {then}, is {now} here", style="yellow")
    console.print(f"written to {folder}: {', '.join(files)}")
    if start:
        console.print(f"next: longhaul runs watch {document['name']}")
    else:
        console.print(f"next: longhaul checkpoints reproduce {checkpoint} --folder {folder} --start")


def _record(client: Client, name: str) -> dict[str, Any]:
    """The checkpoint's record; empty for one of an older release."""
    try:
        request = checkpoint_pb2.GetCheckpointEnvironmentRequest(name=name)
        return dict(json_module.loads(call(client.checkpoints.GetCheckpointEnvironment, request).document))
    except NotFound as error:
        if error.reason != "NO_ENVIRONMENT":
            raise
        return {}


def _recipe(run: training_run_pb2.TrainingRun, found: checkpoint_pb2.Checkpoint) -> dict[str, Any]:
    """The run's recipe, going on from the checkpoint under a name of its own."""
    document: dict[str, Any] = yaml.safe_load(run.spec.recipe)
    document["name"] = f"{short_name(found.training_run)}-again-{found.step}"
    document.setdefault("training", {})["start"] = {
        "checkpoint": found.metadata.name,
        "manifest_key": found.manifest_key,
        "manifest_digest": found.digest,
    }
    return document


def _write(folder: Path, document: dict[str, Any], lineage: dict[str, Any], record: dict[str, Any]) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "recipe.yaml": yaml.safe_dump(document, sort_keys=False),
        "lineage.json": json_module.dumps(lineage, indent=1, sort_keys=True),
    }
    if record:
        texts["environment.json"] = json_module.dumps(record, indent=1, sort_keys=True)
        texts["requirements.txt"] = "".join(f"{pin}\n" for pin in record["packages"])
        texts["variables.env"] = "".join(f"{key}={value}\n" for key, value in record["variables"].items())
    if record.get("changes"):
        texts["changes.patch"] = record["changes"]
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return sorted(texts)


def _recorded(found: checkpoint_pb2.Checkpoint, record: dict[str, Any]) -> dict[str, str]:
    lineage = MessageToDict(found.lineage)
    short = {key.removeprefix(PREFIX): str(v) for key, v in lineage.items() if key.startswith(PREFIX)}
    threads = {"threads_per_worker": f"{lineage['threads_per_worker']:g}"} if "threads_per_worker" in lineage else {}
    return {**short, **{key: str(value) for key, value in record.get("versions", {}).items()}, **threads}


def _here() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("torch", "numpy", "safetensors"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
