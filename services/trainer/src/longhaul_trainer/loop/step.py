"""One optimizer step over the global batch.

Gradients of the summed loss are accumulated over micro-batches and ranks, and divided once by the number of valid
tokens of the whole step: a mean of means would weigh tokens by how full their micro-batch happens to be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from longhaul_core.recipe import TrainerConfig
from torch import Tensor
from torch.nn import functional

from longhaul_trainer.data.permutation import Indices
from longhaul_trainer.data.samples import IGNORED_LABEL, Batch
from longhaul_trainer.model import Decoder
from longhaul_trainer.optimizer.gradients import clip_factor, local_gradients, scale, squared_norm
from longhaul_trainer.optimizer.schedule import learning_rate
from longhaul_trainer.parallel.group import RankGroup
from longhaul_trainer.parallel.sharding import synchronise_gradients


@dataclass(frozen=True, slots=True)
class Measured:
    """Global values of one step, before the update. ``signals`` are sums over the ranks."""

    loss: float
    gradient_norm: float
    valid_tokens: int
    signals: tuple[float, ...]


def summed_loss(model: Decoder, batch: Batch, device: torch.device) -> Tensor:
    """Cross-entropy summed over the valid tokens of a batch, in float32."""
    tokens, labels, positions = (_to(array, device) for array in (batch.tokens, batch.labels, batch.positions))
    logits = model(tokens, positions).flatten(0, 1).float()
    return functional.cross_entropy(logits, labels.flatten(), ignore_index=IGNORED_LABEL, reduction="sum")


class Stepper:
    """Computes gradients, measures them, applies them."""

    def __init__(
        self, model: Decoder, optimizer: torch.optim.Optimizer, config: TrainerConfig, group: RankGroup
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._config = config
        self._group = group
        self._parameters = list(model.parameters())

    def measure(self, batch: Batch, signals: Sequence[float]) -> Measured:
        """Forward and backward pass of this rank's sequences; leaves the mean gradient, not clipped yet.

        Args:
            batch: this rank's sequences of the step.
            signals: numbers to be summed over the ranks on the way; they cost no further collective.
        """
        loss = self._accumulate(batch)
        valid = int((batch.labels != IGNORED_LABEL).sum())
        self._gradients = local_gradients(self._parameters)
        total = self._group.sum([loss, float(valid), squared_norm(self._gradients), *signals])
        valid_tokens = max(1, int(total[1]))
        return Measured(total[0] / valid_tokens, total[2] ** 0.5 / valid_tokens, valid_tokens, tuple(total[3:]))

    def apply(self, measured: Measured, step: int) -> float:
        """Clips, updates the parameters and forgets the gradients; returns the learning rate used."""
        rate = learning_rate(self._config, step)
        factor = clip_factor(measured.gradient_norm, self._config.optimizer.gradient_clip)
        scale(self._gradients, factor / measured.valid_tokens)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return rate

    def _accumulate(self, batch: Batch) -> float:
        total = torch.zeros((), dtype=torch.float64, device=self._group.device)
        parts = list(split(batch, self._config.data.micro_batch_size))
        for number, part in enumerate(parts):
            synchronise_gradients(self._model, number == len(parts) - 1)
            loss = summed_loss(self._model, part, self._group.device)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return float(total)


def split(batch: Batch, size: int) -> Iterator[Batch]:
    """Micro-batches of at most ``size`` sequences."""
    for begin in range(0, len(batch.tokens), size):
        yield batch.rows(begin, begin + size)


def _to(array: Indices, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device, non_blocking=True)
