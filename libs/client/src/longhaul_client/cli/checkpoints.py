"""`longhaul checkpoints`: list, show, verify, pin, unpin, diff, gc, export, import, reproduce."""

from typing import Annotated

import typer
from longhaul.checkpoint.v1 import checkpoint_pb2

from longhaul_client.cli.exit_codes import ExitCode
from longhaul_client.cli.imports import import_model
from longhaul_client.cli.output import JsonOption, console, print_json, print_table
from longhaul_client.cli.reproduce import reproduce
from longhaul_client.cli.session import session_of
from longhaul_client.formatting import age, short_name, size, state_name
from longhaul_client.sdk import call, pages
from longhaul_client.task_end import await_task

app = typer.Typer(no_args_is_help=True, help="Committed states of runs.")

CheckpointArgument = Annotated[str, typer.Argument(help="Id or full name.", metavar="CHECKPOINT")]
COLLECTION = "checkpoints"
VERIFY_TIMEOUT_SECONDS = 3600.0


def _state(checkpoint: checkpoint_pb2.Checkpoint) -> str:
    return state_name(checkpoint_pb2.CheckpointState.Name(checkpoint.state), "CHECKPOINT_STATE_")


@app.command("list")
def list_checkpoints(
    context: typer.Context,
    run: Annotated[str, typer.Option(help="Only of this run.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Also begun, abandoned and deleted ones.")] = False,
    json: JsonOption = False,
) -> None:
    """List checkpoints, newest first.

    Example: longhaul checkpoints list --run my-run
    """
    session = session_of(context)
    request = checkpoint_pb2.ListCheckpointsRequest(
        parent=session.parent,
        training_run=session.resource(run, "trainingRuns") if run else "",
        show_all=everything,
    )
    with session.client() as client:
        found = list(pages(client.checkpoints.ListCheckpoints, request, "checkpoints"))
    if json:
        print_json(found)
        return
    rows = [
        (
            short_name(checkpoint.metadata.name),
            _state(checkpoint),
            checkpoint.step,
            checkpoint.epoch,
            size(checkpoint.size_bytes),
            checkpoint.parts,
            "pinned" if checkpoint.pinned else "",
            age(checkpoint.commit_time),
        )
        for checkpoint in found
    ]
    columns = ["CHECKPOINT", "STATE", ">STEP", ">EPOCH", ">SIZE", ">PARTS", "", ">AGE"]
    print_table(columns, rows, empty="no checkpoints")


@app.command("show")
def show_checkpoint(context: typer.Context, checkpoint: CheckpointArgument, json: JsonOption = False) -> None:
    """Show one checkpoint with its lineage.

    Example: longhaul checkpoints show my-run-step-00000100-e1
    """
    session = session_of(context)
    with session.client() as client:
        request = checkpoint_pb2.GetCheckpointRequest(name=session.resource(checkpoint, COLLECTION))
        found = call(client.checkpoints.GetCheckpoint, request)
    if json:
        print_json(found)
        return
    rows = [
        ("state", _state(found)),
        ("run", found.training_run),
        ("step", found.step),
        ("epoch", found.epoch),
        ("size", f"{size(found.size_bytes)} in {found.parts} parts"),
        ("digest", found.digest),
        ("manifest", found.manifest_key),
        ("parent", short_name(found.parent) or "-"),
        ("in use by", ", ".join(lease.holder for lease in found.leases) or "-"),
        *((f"lineage {key}", found.lineage[key]) for key in sorted(found.lineage)),
    ]
    print_table(["CHECKPOINT", short_name(found.metadata.name)], rows, empty="")


@app.command("verify")
def verify(context: typer.Context, checkpoint: CheckpointArgument, json: JsonOption = False) -> None:
    """Read every part again and compare the digests; exit code 1 when one is damaged.

    Example: longhaul checkpoints verify my-run-step-00000100-e1
    """
    session = session_of(context)
    with session.client() as client:
        request = checkpoint_pb2.VerifyCheckpointRequest(name=session.resource(checkpoint, COLLECTION))
        answer = call(client.checkpoints.VerifyCheckpoint, request, timeout_seconds=VERIFY_TIMEOUT_SECONDS)
    if json:
        print_json(answer)
    elif answer.intact:
        console.print(f"intact: {size(answer.bytes_read)} in {answer.checkpoint.parts} parts")
    else:
        print_table(["DAMAGED PART", "FAULT"], sorted(answer.damaged_parts.items()), empty="")
    if not answer.intact:
        raise typer.Exit(ExitCode.FAILED)


@app.command("pin")
def pin(context: typer.Context, checkpoint: CheckpointArgument) -> None:
    """Keep a checkpoint until it is unpinned.

    Example: longhaul checkpoints pin my-run-step-00000100-e1
    """
    session = session_of(context)
    with session.client() as client:
        request = checkpoint_pb2.PinCheckpointRequest(name=session.resource(checkpoint, COLLECTION))
        found = call(client.checkpoints.PinCheckpoint, request)
    console.print(f"{short_name(found.metadata.name)}: pinned")


@app.command("unpin")
def unpin(context: typer.Context, checkpoint: CheckpointArgument) -> None:
    """End a pin: retention may delete the checkpoint again.

    Example: longhaul checkpoints unpin my-run-step-00000100-e1
    """
    session = session_of(context)
    with session.client() as client:
        request = checkpoint_pb2.UnpinCheckpointRequest(name=session.resource(checkpoint, COLLECTION))
        found = call(client.checkpoints.UnpinCheckpoint, request)
    console.print(f"{short_name(found.metadata.name)}: not pinned")


@app.command("diff")
def diff(
    context: typer.Context, first: CheckpointArgument, second: CheckpointArgument, json: JsonOption = False
) -> None:
    """Compare the parts and the lineage of two checkpoints.

    Example: longhaul checkpoints diff A B
    """
    session = session_of(context)
    with session.client() as client:
        request = checkpoint_pb2.DiffCheckpointsRequest(
            first=session.resource(first, COLLECTION), second=session.resource(second, COLLECTION)
        )
        answer = call(client.checkpoints.DiffCheckpoints, request)
    if json:
        print_json(answer)
        return
    rows = [
        *(("only first", part) for part in answer.only_first),
        *(("only second", part) for part in answer.only_second),
        *(("changed", part) for part in answer.changed),
        *((f"lineage {path}", change) for path, change in sorted(answer.lineage.items())),
    ]
    print_table(["DIFFERENCE", ""], rows, empty="no difference")
    console.print(f"{len(answer.equal)} parts are equal")


@app.command("gc")
def collect_garbage(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="Id or full name of the run.", metavar="RUN")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    json: JsonOption = False,
) -> None:
    """Apply the retention policy of a run now.

    Example: longhaul checkpoints gc my-run --dry-run
    """
    session = session_of(context)
    with session.client() as client:
        request = checkpoint_pb2.CollectGarbageRequest(
            training_run=session.resource(run, "trainingRuns"), dry_run=dry_run
        )
        answer = call(client.checkpoints.CollectGarbage, request)
    if json:
        print_json(answer)
        return
    deleted = "would be deleted" if dry_run else "deleted"
    rows = [(short_name(d.checkpoint), deleted if d.deleted else "kept", d.reason) for d in answer.decisions]
    print_table(["CHECKPOINT", "DECISION", "WHY"], rows, empty="no checkpoints")
    console.print(f"{size(answer.bytes_freed)} {'would be ' if dry_run else ''}freed")


@app.command("export")
def export(
    context: typer.Context,
    checkpoint: CheckpointArgument,
    wait: Annotated[bool, typer.Option(help="Wait until the files are written.")] = False,
    json: JsonOption = False,
) -> None:
    """Write a checkpoint as bf16 safetensors with a Hugging Face configuration and its tokenizer.

    Example: longhaul checkpoints export my-run-step-00000100-e1
    """
    session = session_of(context)
    with session.client() as client:
        request = checkpoint_pb2.ExportCheckpointRequest(
            name=session.resource(checkpoint, COLLECTION), format="huggingface"
        )
        answer = call(client.checkpoints.ExportCheckpoint, request)
        if wait:
            await_task(client, answer.task)
    if json:
        print_json(answer)
    else:
        console.print(f"{answer.task} {'wrote' if wait else 'writes'} to {answer.prefix}")


app.command("import")(import_model)
app.command("reproduce")(reproduce)
