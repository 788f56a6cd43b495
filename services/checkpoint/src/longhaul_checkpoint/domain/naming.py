"""Ids and object keys of checkpoints.

A checkpoint of step 1,200 written in epoch 3 is `step-00001200-e3` within its run. As a resource of the project its id
carries the run, `{run}-step-00001200-e3`: such ids sort by run and step, so that a run's checkpoints are one range of
the catalogue's primary key.
"""

from __future__ import annotations

import re

from longhaul_core.errors import InvalidArgument

MAXIMUM_STEP = 99_999_999
MAXIMUM_EPOCH = 999_999
MAXIMUM_ID_LENGTH = 63
_STEP_ID = re.compile(r"step-(\d{8})-e(\d{1,6})")
_RUN_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def step_id(step: int, epoch: int) -> str:
    """Return the name of a checkpoint within its run.

    Raises:
        InvalidArgument: a step or epoch that does not fit the fixed width which makes ids sort by step.
    """
    if 0 <= step <= MAXIMUM_STEP and 0 < epoch <= MAXIMUM_EPOCH:
        return f"step-{step:08d}-e{epoch}"
    violations = []
    if not 0 <= step <= MAXIMUM_STEP:
        violations.append(("step", f"{step} is not between 0 and {MAXIMUM_STEP}"))
    if not 0 < epoch <= MAXIMUM_EPOCH:
        violations.append(("epoch", f"{epoch} is not between 1 and {MAXIMUM_EPOCH}"))
    raise InvalidArgument("the checkpoint has no valid name", reason="CHECKPOINT_NAME", violations=violations)


def resource_id(run: str, step: int, epoch: int) -> str:
    """Return the id of a checkpoint within its project."""
    return checked_id(f"{checked_run(run)}-{step_id(step, epoch)}")


def checked_run(run: str) -> str:
    """Return `run` if it can name a run.

    Raises:
        InvalidArgument: it cannot.
    """
    if not _RUN_ID.fullmatch(run):
        raise InvalidArgument(
            f"{run!r} is no id of a run", reason="RUN_NAME", violations=[("run", "must match [a-z0-9-]{1,63}")]
        )
    return run


def checked_id(identifier: str) -> str:
    """Return `identifier` if it is short enough.

    Raises:
        InvalidArgument: it is too long.
    """
    if len(identifier) > MAXIMUM_ID_LENGTH:
        raise InvalidArgument(
            f"the checkpoint id {identifier!r} is longer than {MAXIMUM_ID_LENGTH} characters",
            reason="CHECKPOINT_NAME",
            violations=[("run", "too long for the ids of its checkpoints")],
            action="choose a shorter run id",
        )
    return identifier


def split_resource_id(identifier: str) -> tuple[str, int, int]:
    """Return run, step and epoch of a resource id.

    Raises:
        InvalidArgument: the text is no checkpoint id.
    """
    run, _, tail = identifier.rpartition("-step-")
    position = split_step_id(f"step-{tail}") if run else None
    if position is None:
        raise InvalidArgument(
            f"{identifier!r} is no checkpoint id",
            reason="CHECKPOINT_NAME",
            violations=[("name", "a checkpoint id ends in -step-NNNNNNNN-eN")],
        )
    return run, *position


def split_step_id(text: str) -> tuple[int, int] | None:
    """Return step and epoch of a name within a run, or None where it is none."""
    match = _STEP_ID.fullmatch(text)
    return (int(match[1]), int(match[2])) if match else None


def part_prefix(project: str, run: str, step: int, epoch: int) -> str:
    """Return the prefix under which the ranks write the parts, with its closing slash."""
    return f"projects/{project}/checkpoints/{run}/{step_id(step, epoch)}/"


def run_prefix(project: str, run: str) -> str:
    """Return the prefix of all parts of a run."""
    return f"projects/{project}/checkpoints/{run}/"


def path_of(key: str, project: str, run: str) -> str:
    """Return a part's path within its checkpoint: what follows the folder that it lies in."""
    prefix = run_prefix(project, run)
    return key.removeprefix(prefix).partition("/")[2] if key.startswith(prefix) else key


def manifest_key(project: str, run: str, step: int, epoch: int) -> str:
    """Return the key whose conditional creation is the commit: a prefix that only this service writes."""
    return f"{manifest_prefix(project, run)}{step_id(step, epoch)}.json"


def manifest_prefix(project: str, run: str) -> str:
    """Return the prefix of all manifests of a run."""
    return f"projects/{project}/manifests/checkpoints/{run}/"
