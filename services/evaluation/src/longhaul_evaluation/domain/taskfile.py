"""Evaluation task files: one JSON object a line, checked before any checkpoint is scored with them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from longhaul_core.errors import InvalidArgument


class TaskKind(StrEnum):
    """How a task's rows are scored."""

    BITS_PER_BYTE = "bits_per_byte"
    CLOZE = "cloze"


def check_task_file(name: str, kind: str, lines: Iterable[bytes]) -> int:
    """Return the number of items of a task file.

    Args:
        name: the task's name, for messages.
        kind: a `TaskKind`.
        lines: the file's lines.

    Raises:
        InvalidArgument: an unknown kind, an empty file, or the first line that is wrong, with its number.
    """
    if kind not in set(TaskKind):
        raise _malformed(name, 0, f"its kind {kind!r} is none of {', '.join(TaskKind)}")
    seen: set[str] = set()
    for number, line in enumerate(lines, start=1):
        row = _parse(name, number, line)
        fault = _fault(row, TaskKind(kind))
        if not fault and row["id"] in seen:
            fault = f"the id {row['id']!r} occurs twice"
        if fault:
            raise _malformed(name, number, fault)
        seen.add(row["id"])
    if not seen:
        raise _malformed(name, 0, "it has no items")
    return len(seen)


def _parse(name: str, number: int, line: bytes) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _malformed(name, number, f"no JSON ({error})") from error
    if not isinstance(row, dict):
        raise _malformed(name, number, f"a JSON object is needed, not {type(row).__name__}")
    return row


def _fault(row: Mapping[str, Any], kind: TaskKind) -> str:
    texts = ("id", "cluster", "text") if kind is TaskKind.BITS_PER_BYTE else ("id", "cluster", "context")
    for field in texts:
        if not isinstance(row.get(field), str):
            return f"the field {field!r} must be text"
    if not row["id"]:
        return "the field 'id' is empty"
    if kind is TaskKind.BITS_PER_BYTE:
        return "" if row["text"] else "the field 'text' is empty"
    return _choice_fault(row.get("choices"), row.get("gold"))


def _choice_fault(choices: object, gold: object) -> str:
    if not isinstance(choices, list) or len(choices) < 2:
        return "the field 'choices' must be a list of at least two texts"
    if not all(isinstance(choice, str) and choice for choice in choices):
        return "the field 'choices' holds something else than text"
    if type(gold) is not int or not 0 <= gold < len(choices):
        return f"the field 'gold' is {gold!r}, not an index below {len(choices)}"
    return ""


def _malformed(name: str, number: int, fault: str) -> InvalidArgument:
    place = f"line {number}" if number else "file"
    return InvalidArgument(
        f"evaluation task {name!r}, {place}: {fault}",
        reason="MALFORMED_TASK_FILE",
        violations=[(f"{name}:{number}", fault)],
        metadata={"task": name, "line": str(number)},
        action="repair the task file, or build the token set again",
    )
