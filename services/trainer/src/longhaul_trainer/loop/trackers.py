"""Metrics to the programs that a team may already watch: TensorBoard, trackio, MLflow, Weights & Biases.

Each is imported only where the recipe asks for it, and only rank 0 writes. A tracker that fails is told of once and
left alone: training never waits for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

from longhaul_core.errors import FailedPrecondition
from longhaul_core.logging import get_logger
from longhaul_core.recipe import MetricsConfig

from longhaul_trainer.wire import StepRow

_log = get_logger(__name__)

Write = Callable[[int, Mapping[str, float]], None]


class Trackers:
    """All trackers of a run."""

    def __init__(self, writers: Mapping[str, Write]) -> None:
        self._writers = dict(writers)

    def row(self, row: StepRow) -> None:
        """Passes a step's metrics on."""
        values = {
            "loss": row.loss,
            "learning_rate": row.learning_rate,
            "gradient_norm": row.gradient_norm,
            "tokens": float(row.tokens),
            "tokens_per_second": row.tokens_per_second,
            **({} if row.validation_loss is None else {"validation_loss": row.validation_loss}),
            **({} if row.mfu is None else {"mfu": row.mfu}),
            **row.extra,
        }
        for name, write in list(self._writers.items()):
            try:
                write(row.step, values)
            except Exception as error:  # a tracker's own errors have no common base
                _log.warning("tracker given up", tracker=name, error=str(error))
                del self._writers[name]


def open_trackers(config: MetricsConfig, *, run: str, folder: Path) -> Trackers:
    """The trackers that the recipe asks for.

    Raises:
        FailedPrecondition: one is not installed.
    """
    opened: dict[str, Write] = {}
    if config.tensorboard:
        writer = _module("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder / "tensorboard"))

        def to_tensorboard(step: int, values: Mapping[str, float]) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)
            writer.flush()

        opened["tensorboard"] = to_tensorboard
    for name, wanted in (("trackio", config.trackio), ("wandb", config.wandb)):
        if wanted:
            module = _module(name, name)
            module.init(project="longhaul", name=run)
            opened[name] = _logger(module)
    if config.mlflow:
        mlflow = _module("mlflow", "mlflow")
        mlflow.start_run(run_name=run)
        opened["mlflow"] = lambda step, values: mlflow.log_metrics(dict(values), step=step)
    return Trackers(opened)


def _logger(module: ModuleType) -> Write:
    return lambda step, values: module.log(dict(values), step=step)


def _module(name: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise FailedPrecondition(
            f"metrics.{package} is on, but {package} is not installed in the trainer's image",
            reason="TRACKER_MISSING",
            action=f"install {package}, or set metrics.{package} to false",
        ) from error
