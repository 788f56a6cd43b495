"""Evaluation tasks from held-out documents, and the index of the n-grams that training text must not have."""

from dataclasses import asdict
from typing import Any

import numpy as np

from longhaul_corpus.adapters.documents import open_shard, selected
from longhaul_corpus.adapters.rows import put_rows, read_rows
from longhaul_corpus.adapters.steps.passages import dropped_documents, read_edits
from longhaul_corpus.adapters.workspace import Workspace
from longhaul_corpus.domain.contamination import EvaluationItem, index_items
from longhaul_corpus.domain.ordering import TASKS, order_keys
from longhaul_corpus.domain.outcomes import Outcome
from longhaul_corpus.domain.passages import (
    CONTEXT_WORDS,
    CONTINUATION_WORDS,
    ClozeItem,
    HeldOutDocument,
    TextItem,
    cloze_items,
    text_items,
)
from longhaul_corpus.domain.taskfiles import BITS_PER_BYTE, CLOZE, TaskKind, evaluation_item

GRAMS = "grams.npz"


def make_tasks(workspace: Workspace, item: dict[str, Any]) -> dict[str, Any]:
    """Write every task as JSON lines, index their n-grams; returns the tasks and remarks for the report."""
    generated, notes = _generate(workspace)
    tasks: list[dict[str, Any]] = []
    texts = []
    user = [(task["name"], TaskKind(task["kind"]), _user_rows(workspace, task["name"])) for task in item["tasks"]]
    for name, kind, rows in [*generated, *user]:
        part = put_rows(workspace.store, f"{workspace.context.prefix}/eval/{name}.jsonl", rows)
        tasks.append({"name": name, "kind": kind.value, "items": len(rows), "part": part.model_dump(mode="json")})
        texts.append([evaluation_item(kind, row) for row in rows])
    rules = workspace.spec.decontamination
    for check in item["checks"]:
        texts.append([EvaluationItem(row["question"], row["answer"]) for row in _check_rows(workspace, check["name"])])
    if rules.ngram:
        index = index_items(texts, rules.ngram, rules.question_ngram)
        workspace.put_arrays(GRAMS, {name: getattr(index, name) for name in index.__dataclass_fields__})
    return {"tasks": tasks, "checks": item["checks"], "notes": notes}


def _user_rows(workspace: Workspace, name: str) -> list[dict[str, Any]]:
    return read_rows(workspace.store, workspace.key("tasks", f"{name}.jsonl"))


def _check_rows(workspace: Workspace, name: str) -> list[dict[str, Any]]:
    return read_rows(workspace.store, workspace.key("checks", f"{name}.jsonl"))


def _row(item: TextItem | ClozeItem) -> dict[str, Any]:
    """An item as a line of its file; a cluster is a label there, as in the users' own files."""
    return {**asdict(item), "cluster": str(item.cluster)}


def _generate(workspace: Workspace) -> tuple[list[tuple[str, TaskKind, list[dict[str, Any]]]], list[str]]:
    wanted = workspace.spec.evaluation_tasks
    documents = _held_out(workspace, max(wanted.bits_per_byte_documents, wanted.cloze_questions))
    tasks: list[tuple[str, TaskKind, list[dict[str, Any]]]] = []
    notes = []
    if texts := text_items(documents, wanted.bits_per_byte_documents):
        tasks.append((BITS_PER_BYTE, TaskKind.BITS_PER_BYTE, [_row(text) for text in texts]))
    if wanted.cloze_questions:
        questions = cloze_items(documents, wanted.cloze_questions, wanted.cloze_choices, workspace.spec.holdout.seed)
        if questions:
            tasks.append((CLOZE, TaskKind.CLOZE, [_row(question) for question in questions]))
        if len(questions) < wanted.cloze_questions:
            notes.append(
                f"{len(questions)} of {wanted.cloze_questions} cloze questions were made: the held-out documents hold "
                f"no more passages of {CONTEXT_WORDS + CONTINUATION_WORDS} words, or fewer than "
                f"{wanted.cloze_choices} clusters have any."
            )
    return tasks, notes


def _held_out(workspace: Workspace, count: int) -> list[HeldOutDocument]:
    """Read the first `count` validation documents in seeded order."""
    valid = np.flatnonzero(workspace.column("documents/outcome", np.uint8) == Outcome.VALID)
    valid = np.setdiff1d(valid, dropped_documents(workspace))
    content = workspace.column("documents/content", np.uint64)[valid]
    chosen = valid[np.argsort(order_keys(content, workspace.spec.holdout.seed, TASKS), kind="stable")][:count]
    clusters = workspace.column("documents/cluster", np.int64)
    found: dict[int, HeldOutDocument] = {}
    for shard in workspace.shards():
        wanted = np.isin(np.arange(shard.offset, shard.offset + shard.documents), chosen)
        if not wanted.any():
            continue
        edits = read_edits(workspace, shard)
        for rows, columns in selected(open_shard(workspace.store, shard.key), ("id", "text"), wanted):
            for ordinal, name, text in zip((rows + shard.offset).tolist(), columns["id"], columns["text"], strict=True):
                found[ordinal] = HeldOutDocument(name, edits.get(ordinal, text or ""), str(clusters[ordinal]))
    by_id = {found[int(ordinal)].id: found[int(ordinal)] for ordinal in chosen}  # equal texts only once
    return list(by_id.values())
