"""What evaluation reads from the object store: task files of token sets, and results of score tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from longhaul_core.errors import DataLoss, InvalidArgument
from longhaul_core.manifests import read_manifest
from longhaul_core.objects.store import ObjectStore
from longhaul_core.tasks import ManifestReference, ScoreResult
from pydantic import ValidationError

from longhaul_evaluation.domain.evaluation import Selection
from longhaul_evaluation.domain.taskfile import check_task_file

MAXIMUM_RESULT_BYTES = 1 << 30
_CHECKED_TOKEN_SETS = 1000


class TaskFiles:
    """Checks the task files of token sets, each once."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._checked: dict[tuple[str, str], int] = {}

    def check(self, token_set: ManifestReference, selections: tuple[Selection, ...]) -> None:
        """Refuse tasks that a token set does not carry, or whose file is malformed.

        Raises:
            InvalidArgument: TASK_UNKNOWN, MALFORMED_TASK_FILE or TOO_FEW_ITEMS.
            DataLoss: the token set's manifest is damaged.
            NotFound: the manifest or a file is missing.
        """
        carried: Mapping[str, Any] | None = None
        for selection in selections:
            key = (token_set.digest, selection.task)
            if key not in self._checked:
                carried = self._carried(token_set) if carried is None else carried
                self._remember(key, self._count(token_set, selection.task, carried))
            _check_items(selection, self._checked[key])

    def _carried(self, token_set: ManifestReference) -> Mapping[str, Any]:
        manifest = read_manifest(self._store, token_set.manifest_key)
        if manifest.digest != token_set.digest:
            raise DataLoss(
                f"the manifest of {token_set.name!r} is not the one that was committed", reason="MANIFEST_DIFFERS"
            )
        tasks = manifest.extra.get("eval_tasks", {})
        return tasks if isinstance(tasks, dict) else {}

    def _count(self, token_set: ManifestReference, task: str, carried: Mapping[str, Any]) -> int:
        entry = carried.get(task)
        if entry is None:
            known = ", ".join(sorted(carried)) or "none"
            raise InvalidArgument(
                f"token set {token_set.name!r} carries no evaluation task {task!r}",
                reason="TASK_UNKNOWN",
                metadata={"task": task, "known": known},
                violations=[("tasks", f"known: {known}")],
                action="name a task that the token set carries, or build the token set with it",
            )
        with self._store.open_read(entry["key"]) as lines:
            return check_task_file(task, entry["kind"], lines)

    def _remember(self, key: tuple[str, str], items: int) -> None:
        while len(self._checked) >= _CHECKED_TOKEN_SETS:
            self._checked.pop(next(iter(self._checked)))
        self._checked[key] = items


def read_result(store: ObjectStore, key: str) -> ScoreResult:
    """Read the result of a score task.

    Raises:
        NotFound: there is none.
        DataLoss: it is no result (RESULT_MALFORMED).
    """
    size = store.stat(key).size
    if size > MAXIMUM_RESULT_BYTES:
        raise _malformed(key, f"{size} bytes are more than {MAXIMUM_RESULT_BYTES}")
    try:
        return ScoreResult.model_validate_json(store.get(key))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _malformed(key, f"{where}: {first['msg']}" if where else first["msg"]) from error


def _check_items(selection: Selection, items: int) -> None:
    if items <= selection.few_shot:
        raise InvalidArgument(
            f"evaluation task {selection.task!r} has {items} items: too few for {selection.few_shot} examples and a "
            "question",
            reason="TOO_FEW_ITEMS",
            metadata={"task": selection.task, "items": str(items)},
            violations=[("tasks", "few_shot is too high")],
            action="lower few_shot, or hold out more documents",
        )


def _malformed(key: str, fault: str) -> DataLoss:
    return DataLoss(
        f"the score task's result {key!r} is malformed: {fault}", reason="RESULT_MALFORMED", metadata={"key": key}
    )
