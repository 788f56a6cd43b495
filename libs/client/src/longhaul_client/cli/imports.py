"""`longhaul checkpoints import`: a published model becomes a checkpoint."""

import json as json_module
from pathlib import Path
from typing import Annotated

import typer
import yaml
from google.protobuf.json_format import MessageToDict
from longhaul.checkpoint.v1 import checkpoint_pb2

from longhaul_client.cli.output import JsonOption, console, print_json
from longhaul_client.cli.session import session_of
from longhaul_client.formatting import short_name, size
from longhaul_client.sdk import call
from longhaul_client.task_end import await_end


def import_model(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="Folder with config.json and safetensors, or a store prefix.")],
    name: Annotated[str, typer.Option(help="Id of the model; its checkpoint is NAME-step-00000000-e1.")],
    json: JsonOption = False,
) -> None:
    """Make a checkpoint of a model in Hugging Face's form, and print the recipe sections that continue it.

    The folder must be one that the training pods see; on one machine any folder is. Run again, it attaches.

    Example: longhaul checkpoints import ~/models/SmolLM3-3B --name smollm3
    """
    session = session_of(context)
    place = str(Path(source).expanduser().resolve()) if Path(source).expanduser().is_dir() else source
    request = checkpoint_pb2.ImportCheckpointRequest(parent=session.parent, model=name, source=place)
    with session.client() as client:
        request.retry = True
        answer = call(client.checkpoints.ImportCheckpoint, request)
        request.retry = False
        while answer.task:
            await_end(client, answer.task)
            answer = call(client.checkpoints.ImportCheckpoint, request)
    found = answer.checkpoint
    sections = _sections(found)
    if json:
        print_json({"checkpoint": MessageToDict(found, preserving_proto_field_name=True), "recipe": sections})
        return
    console.print(f"{short_name(found.metadata.name)}: {size(found.size_bytes)}, imported from {place}")
    console.print("to continue it, put into a recipe:")
    console.print(yaml.safe_dump(sections, sort_keys=False))


def _sections(found: checkpoint_pb2.Checkpoint) -> dict[str, object]:
    """The recipe's sections that start a run from it: the same model, weights alone."""
    start = {
        "checkpoint": found.metadata.name,
        "manifest_key": found.manifest_key,
        "manifest_digest": found.digest,
        "keep_optimizer": False,
        "keep_progress": False,
    }
    model = json_module.loads(str(found.lineage["model"]))
    return {"model": model, "training": {"start": start}}
