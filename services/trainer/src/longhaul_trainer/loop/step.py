"""One optimizer step over the global batch.

Gradients of the summed loss are accumulated over micro-batches and ranks, and divided once by the number of valid
tokens of the whole step: a mean of means would weigh tokens by how full their micro-batch happens to be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from longhaul_core.recipe import TrainerConfig
from torch import Tensor

from longhaul_trainer.data.permutation import Indices
from longhaul_trainer.data.samples import IGNORED_LABEL, Batch
from longhaul_trainer.loop.loss import PLAIN_LOSS, summed_loss
from longhaul_trainer.optimizer.adamw import decays
from longhaul_trainer.optimizer.gradients import (
    Gradient,
    add_penalty,
    clip_factor,
    local_gradients,
    scale,
    settle,
    squared_norm,
    squared_weights,
    sum_tied,
)
from longhaul_trainer.optimizer.schedule import learning_rate
from longhaul_trainer.optimizer.update import Update
from longhaul_trainer.parallel.grid import Grid
from longhaul_trainer.parallel.pipeline import Pipeline
from longhaul_trainer.parallel.sharding import Built, keep_shards_only, synchronise_gradients


@dataclass(frozen=True, slots=True)
class Measured:
    """Global values of one step, before the update. ``signals`` are sums over the ranks.

    ``expert_counts``: tokens of each expert, by layer; empty without experts.
    """

    loss: float
    gradient_norm: float
    valid_tokens: int
    signals: tuple[float, ...]
    expert_counts: dict[int, tuple[float, ...]]


class Stepper:
    """Computes gradients, measures them, applies them."""

    def __init__(self, built: Built, update: Update, config: TrainerConfig, grid: Grid) -> None:
        self._built, self._model = built, built.model
        self._update, self._config, self._grid = update, config, grid
        self._named = list(built.model.named_parameters())
        self._gradients: list[Gradient] = []
        self._pipelines: dict[tuple[int, int, int], Pipeline] = {}
        shape = built.model.shape
        self._expert_layers = [layer for layer in range(shape.layers) if shape.has_experts(layer)]

    @property
    def vocabulary_size(self) -> int:
        """Tokens that the model knows."""
        return self._model.shape.vocabulary_size

    def measure(self, batch: Batch, signals: Sequence[float], micro_batch_size: int = 0) -> Measured:
        """Forward and backward pass of this rank's sequences; leaves the summed gradient, not clipped yet.

        Args:
            batch: this rank's sequences of the step.
            signals: numbers to be summed over the ranks on the way; they cost no further collective.
            micro_batch_size: sequences at once; 0: as configured.
        """
        size = min(micro_batch_size or self._config.data.micro_batch_size, len(batch.tokens))
        loss = self._pipeline(batch, size) if self._grid.pipelined else self._accumulate(batch, size)
        valid = int((self._mine(batch.labels) != IGNORED_LABEL).sum())
        settle(self._model)
        sum_tied(self._model, self._grid)
        self._gradients = local_gradients(self._named, self._built.copies)
        mine = [loss, float(valid)] if self._grid.counts_loss else [0.0, 0.0]
        counts = self._expert_counts()
        total = self._grid.group.sum([*mine, squared_norm(self._gradients), *signals, *counts])
        valid_tokens, end = max(1, int(total[1])), 3 + len(signals)
        return Measured(
            total[0] / valid_tokens,
            total[2] ** 0.5 / valid_tokens,
            valid_tokens,
            tuple(total[3:end]),
            self._by_layer(total[end:]),
        )

    def apply(self, measured: Measured, step: int, rate_factor: float = 1.0) -> float:
        """Clips, updates the parameters and forgets the gradients; returns the learning rate used."""
        optimizer = self._config.optimizer
        rate = learning_rate(self._config, step) * rate_factor
        factor = clip_factor(measured.gradient_norm, optimizer.gradient_clip)
        scale(self._gradients, factor / measured.valid_tokens)
        if optimizer.l1 or optimizer.l2:
            add_penalty([p for n, p in self._named if decays(n, p)], optimizer.l1, optimizer.l2)
        self._update.step(rate)
        for layer, router in self._model.routers():
            counts = torch.tensor(measured.expert_counts[layer], device=router.load.device)
            router.settle(counts, self._config.model.moe.balance_bias_rate)
        return rate

    def parameter_norm(self) -> float:
        """Norm of all parameters; every rank takes part."""
        mine = squared_weights(self._named, self._built.copies)
        return float(self._grid.group.sum([mine])[0] ** 0.5)

    def discard(self) -> None:
        """Forgets the gradients and counts of a step that is not taken."""
        self._update.forget_gradients()
        for _, router in self._model.routers():
            router.counts.zero_()

    @torch.no_grad()
    def evaluate(self, batch: Batch, size: int) -> float:
        """Summed cross-entropy of this rank's sequences, without z-loss or smoothing."""
        total = self._forward_only(batch, size)
        keep_shards_only(self._model)
        return total

    def _forward_only(self, batch: Batch, size: int) -> float:
        if self._grid.pipelined:
            tokens, labels, positions = self._tensors(batch)
            return float(self._schedule(batch, size).evaluate(tokens, labels, positions))
        total = torch.zeros((), dtype=torch.float64, device=self._grid.group.device)
        for part in split(batch, size):
            tokens, labels, positions = self._tensors(part)
            total += summed_loss(self._model(tokens, positions), labels)
        return float(total) if self._grid.counts_loss else 0.0

    def _accumulate(self, batch: Batch, size: int) -> float:
        total = torch.zeros((), dtype=torch.float64, device=self._grid.group.device)
        parts = list(split(batch, size))
        for number, part in enumerate(parts):
            synchronise_gradients(self._model, number == len(parts) - 1)
            tokens, labels, positions = self._tensors(part)
            loss = summed_loss(self._model(tokens, positions), labels, self._config.loss)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return float(total)

    def _pipeline(self, batch: Batch, size: int) -> float:
        tokens, labels, positions = self._tensors(batch)
        return float(self._schedule(batch, size).step(tokens, labels, positions))

    def _schedule(self, batch: Batch, size: int) -> Pipeline:
        """A schedule is bound to a batch's size, so there is one for each."""
        key = (len(batch.tokens), batch.tokens.shape[1], size)
        if key not in self._pipelines:
            micro_batches = max(len(batch.tokens) // size, 1)
            self._pipelines[key] = Pipeline(self._built, self._grid, micro_batches, self._loss)
        return self._pipelines[key]

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return summed_loss(logits, labels, self._config.loss if torch.is_grad_enabled() else PLAIN_LOSS)

    def _tensors(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens and labels of this rank's places in the rows, positions of whole rows."""
        device = self._grid.group.device
        return (
            _to(self._mine(batch.tokens), device),
            _to(self._mine(batch.labels), device),
            _to(batch.positions, device),
        )

    def _mine(self, rows: Indices) -> Indices:
        context = self._model.context
        if context is None:
            return rows
        columns = context.columns(rows.shape[1], torch.device("cpu")).numpy()
        return np.ascontiguousarray(rows[:, columns])

    def _expert_counts(self) -> list[float]:
        held = dict(self._model.routers())
        found: list[float] = []
        for layer in self._expert_layers:
            found += held[layer].counts.tolist() if layer in held else [0.0] * self._config.model.moe.experts
        return found

    def _by_layer(self, counts: Sequence[float]) -> dict[int, tuple[float, ...]]:
        experts = self._model.shape.moe.experts
        return {
            layer: tuple(counts[place * experts : (place + 1) * experts])
            for place, layer in enumerate(self._expert_layers)
        }


def split(batch: Batch, size: int) -> Iterator[Batch]:
    """Micro-batches of at most ``size`` sequences."""
    for begin in range(0, len(batch.tokens), size):
        yield batch.rows(begin, begin + size)


def _to(array: Indices, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device, non_blocking=True)
