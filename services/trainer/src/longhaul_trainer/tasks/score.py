"""Scores a committed checkpoint on tasks of a token set."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from longhaul_core.errors import NotFound
from longhaul_core.logging import get_logger
from longhaul_core.objects import ObjectStore
from longhaul_core.tasks import ScoreArguments, ScoreResult, TaskScore
from tokenizers import Tokenizer

from longhaul_trainer.data.token_set import TokenSet, open_token_set
from longhaul_trainer.parallel.group import choose_device
from longhaul_trainer.tasks.lm_eval_tasks import run_task, work_offline, write_task
from longhaul_trainer.tasks.loading import LoadedCheckpoint, load_checkpoint, read_referenced, read_tokenizer
from longhaul_trainer.tasks.settings import TaskSettings

_log = get_logger(__name__)


def run_score(settings: TaskSettings, store: ObjectStore) -> ScoreResult:
    """Runs every task that was asked for.

    Raises:
        DataLoss: the checkpoint, the tokenizer or a task file is damaged or another one.
        NotFound: the token set has no such task.
    """
    arguments = ScoreArguments.model_validate_json(settings.task_arguments)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(arguments.seed)
    read_referenced(store, arguments.token_set)
    token_set = open_token_set(store, arguments.token_set.manifest_key, settings.scratch_dir / "tokens")
    loaded = load_checkpoint(store, arguments.checkpoint, choose_device("auto", 0))
    scores = _score_all(arguments, token_set, loaded, store, settings.scratch_dir)
    return ScoreResult(
        checkpoint_digest=arguments.checkpoint.digest,
        token_set_digest=arguments.token_set.digest,
        step=loaded.state.step,
        scores=tuple(scores),
    )


def _score_all(
    arguments: ScoreArguments, token_set: TokenSet, loaded: LoadedCheckpoint, store: ObjectStore, scratch: Path
) -> list[TaskScore]:
    work_offline(scratch / "cache")
    from longhaul_trainer.tasks.language_model import DecoderLM

    described = token_set.extra.tokenizer
    tokenizer = Tokenizer.from_buffer(read_tokenizer(store, described.key, described.digest))
    model = DecoderLM(loaded.model, tokenizer, token_set.extra.eos_id, batch_size=arguments.batch_size)
    scores: list[TaskScore] = []
    for selection in arguments.tasks:
        task = token_set.extra.eval_tasks.get(selection.task)
        if task is None:
            raise NotFound(
                f"The token set {token_set.manifest.name} carries no task {selection.task!r}",
                metadata={"tasks": ", ".join(token_set.extra.eval_tasks)},
                action="choose one of the token set's tasks",
            )
        started = time.perf_counter()
        write_task(scratch / "tasks", selection.task, task.kind, token_set.files.path(task.key))
        scores += run_task(model, scratch / "tasks", selection, task.kind, arguments.seed)
        seconds = round(time.perf_counter() - started, 2)
        _log.info("task scored", task=selection.task, few_shot=selection.few_shot, seconds=seconds)
    return scores
