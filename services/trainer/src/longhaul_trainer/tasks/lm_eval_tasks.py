"""Token-set tasks as lm-eval tasks: a YAML beside a JSON-lines file, run offline, item by item back."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from longhaul_core.collector import importing
from longhaul_core.errors import InvalidArgument
from longhaul_core.tasks import ItemScore, ScoreSelection, TaskScore

LN_2 = 0.6931471805599453

_CLOZE: Mapping[str, Any] = {
    "output_type": "multiple_choice",
    "doc_to_text": "context",
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
    "target_delimiter": " ",
    "fewshot_split": "test",
    "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc_norm", "acc")],
}
_BITS_PER_BYTE: Mapping[str, Any] = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "text",
    "metric_list": [{"metric": "bits_per_byte"}],
}
_KINDS: Mapping[str, Mapping[str, Any]] = {"cloze": _CLOZE, "bits_per_byte": _BITS_PER_BYTE}


def work_offline(cache: Path) -> None:
    """Keeps the evaluation libraries off the network and inside the task's own folder; call before importing them."""
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HOME": str(cache),
        "HF_DATASETS_CACHE": str(cache / "datasets"),
        "TOKENIZERS_PARALLELISM": "false",
    }


def write_task(folder: Path, name: str, kind: str, items: Path) -> None:
    """Writes the definition of one task.

    Raises:
        InvalidArgument: a kind that is not known.
    """
    if kind not in _KINDS:
        raise InvalidArgument(
            f"Task {name} is of the unknown kind {kind!r}", violations=[("tasks", f"known kinds: {', '.join(_KINDS)}")]
        )
    definition = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(items)}},
        "test_split": "test",
        "metadata": {"version": 1},
        **_KINDS[kind],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(definition, sort_keys=False))


def run_task(model: Any, folder: Path, selection: ScoreSelection, kind: str, seed: int) -> list[TaskScore]:
    """Scores one task with a number of examples before each item; one result a metric."""
    if selection.few_shot and kind != "cloze":
        raise InvalidArgument(
            f"Task {selection.task} of kind {kind} has no examples to show",
            violations=[("tasks.few_shot", f"must be 0, not {selection.few_shot}")],
        )
    with importing():
        import torch
        from lm_eval import evaluate
        from lm_eval.tasks import TaskManager

    # Not `simple_evaluate`: around the same call it asks pip, git and the drivers about this machine, a second a task.
    loaded = TaskManager(include_path=str(folder), include_defaults=False).load([selection.task])
    task = loaded["tasks"][selection.task]
    task.set_config(key="num_fewshot", value=selection.few_shot)
    task.set_fewshot_seed(seed=seed)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    answer = evaluate(lm=model, task_dict=loaded, limit=selection.limit or None, bootstrap_iters=0, log_samples=True)
    samples = answer["samples"][selection.task]
    return list(_scores(selection, kind, samples))


def _scores(selection: ScoreSelection, kind: str, samples: list[dict[str, Any]]) -> Iterator[TaskScore]:
    if kind == "bits_per_byte":
        items = [_item(sample, -sample["bits_per_byte"][0] / LN_2, sample["bits_per_byte"][1]) for sample in samples]
        yield TaskScore(
            task=selection.task, few_shot=0, metric="bits_per_byte", higher_is_better=False, items=tuple(items)
        )
        return
    chance = sum(1 / len(sample["doc"]["choices"]) for sample in samples) / len(samples)
    for metric in ("acc_norm", "acc"):
        yield TaskScore(
            task=selection.task,
            few_shot=selection.few_shot,
            metric=metric,
            higher_is_better=True,
            chance=chance,
            items=tuple(_item(sample, sample[metric], 1) for sample in samples),
        )


def _item(sample: dict[str, Any], value: float, weight: float) -> ItemScore:
    document = sample["doc"]
    return ItemScore(
        id=str(document["id"]), cluster=str(document.get("cluster", "")), value=float(value), weight=float(weight)
    )
