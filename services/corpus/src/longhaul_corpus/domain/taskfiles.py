"""The user's own evaluation files: JSON lines, checked line by line and brought to the form of the generated tasks."""

import json
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from longhaul_core.errors import InvalidArgument

from longhaul_corpus.domain.contamination import EvaluationItem

BITS_PER_BYTE = "bits_per_byte"
CLOZE = "cloze"


class TaskKind(StrEnum):
    """How a task's items are scored."""

    BITS_PER_BYTE = "bits_per_byte"
    CLOZE = "cloze"


def read_task_file(name: str, lines: Iterable[bytes]) -> tuple[TaskKind, list[dict[str, Any]]]:
    """Read a task of one kind: rows with `context`, `choices`, `gold`, or rows with `text`.

    Raises:
        InvalidArgument: names the file, the line and what is wrong with it (EVALUATION_FILE_MALFORMED).
    """
    kind: TaskKind | None = None
    items: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _parse(name, number, line)
        ours = TaskKind.BITS_PER_BYTE if "text" in row else TaskKind.CLOZE
        if kind is not None and ours is not kind:
            raise _malformed(name, number, f"it is a {ours} item among {kind} items")
        kind = ours
        item = _text_row(name, number, row) if ours is TaskKind.BITS_PER_BYTE else _cloze_row(name, number, row)
        if items.setdefault(item["id"], item) is not item:
            raise _malformed(name, number, f"the id {item['id']!r} occurs twice")
    if kind is None:
        raise _malformed(name, 0, "it holds no item")
    return kind, list(items.values())


QUESTION_FIELDS = ("question", "query", "prompt", "context", "ctx", "problem", "input", "goal", "sentence", "text")
ANSWER_FIELDS = ("answer", "target", "completion", "solution", "output")


def read_check_file(name: str, lines: Iterable[bytes]) -> list[EvaluationItem]:
    """Read an evaluation set that is only checked against: one item a line.

    A line is a sample as lm-eval logs it (`doc` with `arguments` or `target`), or an object with a question and perhaps
    an answer under one of the usual names, or with `choices` and the position of the right one.

    Raises:
        InvalidArgument: names the file, the line and what is wrong with it (EVALUATION_FILE_MALFORMED).
    """
    items = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            items.append(_check_item(name, number, _parse(name, number, line)))
    if not items:
        raise _malformed(name, 0, "it holds no item")
    return items


def _check_item(name: str, number: int, row: dict[str, Any]) -> EvaluationItem:
    inner = row["doc"] if isinstance(row.get("doc"), dict) else row
    question = next((inner[field] for field in QUESTION_FIELDS if isinstance(inner.get(field), str)), None)
    if question is None:
        wanted = ", ".join(f"`{field}`" for field in QUESTION_FIELDS)
        raise _malformed(name, number, f"it has none of {wanted}")
    answer = next((source[field] for source in (inner, row) for field in ANSWER_FIELDS if field in source), "")
    choices = inner.get("choices")
    if isinstance(choices, dict):
        choices = choices.get("text")
    gold = inner.get("gold", answer)
    if isinstance(choices, list) and isinstance(gold, int) and 0 <= gold < len(choices):
        answer = choices[gold]
    return EvaluationItem(question, answer if isinstance(answer, str) else "")


def evaluation_item(kind: TaskKind, row: dict[str, Any]) -> EvaluationItem:
    """What decontamination compares of an item: the question, and the right answer."""
    if kind is TaskKind.BITS_PER_BYTE:
        return EvaluationItem(str(row["text"]), "")
    return EvaluationItem(str(row["context"]), str(row["choices"][row["gold"]]))


def _parse(name: str, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, UnicodeDecodeError) as error:
        raise _malformed(name, number, f"it is not JSON ({error})") from error
    if not isinstance(row, dict):
        raise _malformed(name, number, "it is not a JSON object")
    return row


def _text_row(name: str, number: int, row: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(row["text"], str) or not row["text"].strip():
        raise _malformed(name, number, "`text` is not a text with any character")
    return {"id": _identity(row, number), "text": row["text"], "cluster": _identity(row, number)}


def _cloze_row(name: str, number: int, row: dict[str, Any]) -> dict[str, Any]:
    missing = [field for field in ("context", "choices", "gold") if field not in row]
    if missing:
        raise _malformed(name, number, f"it lacks {', '.join(f'`{field}`' for field in missing)}")
    context, choices, gold = row["context"], row["choices"], row["gold"]
    if not isinstance(context, str) or not context.strip():
        raise _malformed(name, number, "`context` is not a text with any character")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c for c in choices):
        raise _malformed(name, number, "`choices` is not a list of two or more texts")
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(choices):
        raise _malformed(name, number, f"`gold` is {gold!r}, not the position of one of {len(choices)} choices")
    identity = _identity(row, number)
    return {"id": identity, "context": context, "choices": choices, "gold": gold, "cluster": identity}


def _identity(row: dict[str, Any], number: int) -> str:
    return str(row.get("id", number))


def _malformed(name: str, number: int, problem: str) -> InvalidArgument:
    where = f"{name}, line {number}" if number else name
    return InvalidArgument(
        f"Evaluation file {where}: {problem}",
        reason="EVALUATION_FILE_MALFORMED",
        metadata={"file": name, "line": str(number)},
        violations=[("evaluation_tasks.files", f"{where}: {problem}")],
        action='Write one JSON object a line: {"context": "…", "choices": ["…", "…"], "gold": 0}, or {"text": "…"}.',
    )
