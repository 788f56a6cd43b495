"""Loss on a fixed set of held-out sequences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from longhaul_core.recipe import TrainerConfig

from longhaul_trainer.data.samples import IGNORED_LABEL, Batch, read_sequences
from longhaul_trainer.data.tokens import TokenStream
from longhaul_trainer.loop.step import Stepper
from longhaul_trainer.model import Decoder
from longhaul_trainer.parallel.grid import Grid


class Validation:
    """Mean cross-entropy, nats a token, overall and by source; the same sequences for every layout."""

    def __init__(self, streams: Sequence[TokenStream], config: TrainerConfig, *, rank: int, ranks: int) -> None:
        self._config = config
        length = config.data.sequence_length
        held = [stream for stream in streams if stream.sequences(length)]
        self.sources = [stream.name for stream in held]
        self._batches = [
            _share(stream, count, config, rank, ranks)
            for stream, count in zip(held, _quotas(held, length, config.validation.sequences), strict=True)
        ]

    def measure(self, model: Decoder, stepper: Stepper, grid: Grid) -> tuple[float | None, dict[str, float]]:
        """Loss over all sources, None where there is no held-out text, and loss by source."""
        sums: list[float] = []
        model.eval()
        for batch in self._batches:
            counted = grid.counts_loss and grid.rank("context") == 0
            valid = float((batch.labels != IGNORED_LABEL).sum()) if counted else 0.0
            sums += [stepper.evaluate(batch, self._config.data.micro_batch_size or 1), valid]
        model.train()
        sums = grid.group.sum(sums) if sums else []
        losses, tokens = sums[0::2], sums[1::2]
        by_source = {n: x / t for n, x, t in zip(self.sources, losses, tokens, strict=True) if t}
        return (sum(losses) / sum(tokens) if sum(tokens) else None), by_source


def _quotas(streams: Sequence[TokenStream], length: int, wanted: int) -> list[int]:
    """Sequences of each source, in proportion to its size, at least one."""
    sizes = [stream.sequences(length) for stream in streams]
    total = sum(sizes)
    return [min(size, max(1, round(size * min(1.0, wanted / total)))) for size in sizes]


def _share(stream: TokenStream, count: int, config: TrainerConfig, rank: int, ranks: int) -> Batch:
    """This rank's sequences, spread evenly over the source; every rank gets equally many, padded with masked ones."""
    length = config.data.sequence_length
    chosen = np.linspace(0, stream.sequences(length) - 1, count).astype(np.int64)
    whole = ranks * (min(config.data.micro_batch_size, -(-count // ranks)) if config.layout.stages > 1 else 1)
    padded = -(-count // whole) * whole
    mine = np.resize(chosen, padded)[rank::ranks]
    batch = read_sequences(stream, mine, length, document_masking=config.data.document_masking)
    labels = batch.labels.copy()
    labels[np.arange(padded)[rank::ranks] >= count] = IGNORED_LABEL
    return Batch(batch.tokens, labels, batch.positions)
