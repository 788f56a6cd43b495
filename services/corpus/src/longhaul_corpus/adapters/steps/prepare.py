"""The user's evaluation files: read, checked and copied, before anything is waited for."""

from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from longhaul_core.errors import InvalidArgument, NotFound

from longhaul_corpus.adapters.rows import put_rows
from longhaul_corpus.adapters.workspace import Workspace
from longhaul_corpus.domain.taskfiles import BITS_PER_BYTE, CLOZE, read_check_file, read_task_file

_TASK_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def prepare(workspace: Workspace, item: dict[str, Any]) -> dict[str, Any]:
    """Copy the user's evaluation files into the build, so that later changes to them change nothing."""
    tasks: list[dict[str, Any]] = []
    for location in workspace.spec.evaluation_tasks.files:
        name = _task_name(location, [str(task["name"]) for task in tasks])
        kind, rows = read_task_file(location, _read(workspace, location).splitlines())
        put_rows(workspace.store, workspace.key("tasks", f"{name}.jsonl"), rows)
        tasks.append({"name": name, "kind": kind.value, "items": len(rows)})
    checks: list[dict[str, Any]] = []
    for location in workspace.spec.decontamination.files:
        name = _task_name(location, [str(known["name"]) for known in (*tasks, *checks)])
        items = read_check_file(location, _read(workspace, location).splitlines())
        put_rows(workspace.store, workspace.key("checks", f"{name}.jsonl"), map(asdict, items))
        checks.append({"name": name, "items": len(items)})
    return {"tasks": tasks, "checks": checks}


def _task_name(location: str, taken: list[str]) -> str:
    name = PurePosixPath(location).name.partition(".")[0]
    if not name or set(name) - _TASK_NAME_CHARACTERS:
        raise _refused(location, "its name before the first dot is not of letters, digits, '-' and '_'")
    if name in (BITS_PER_BYTE, CLOZE, *taken):
        raise _refused(location, f"there is already a task named {name!r}")
    return name


def _read(workspace: Workspace, location: str) -> bytes:
    try:
        return Path(location).read_bytes() if location.startswith("/") else workspace.store.get(location)
    except (OSError, NotFound) as error:
        cause = error.strerror if isinstance(error, OSError) else "there is no such object"
        raise _refused(location, f"it cannot be read: {cause}") from error


def _refused(location: str, problem: str) -> InvalidArgument:
    return InvalidArgument(
        f"Evaluation file {location}: {problem}",
        reason="EVALUATION_FILE_UNUSABLE",
        metadata={"file": location},
        violations=[("evaluation_tasks.files", f"{location}: {problem}")],
    )
