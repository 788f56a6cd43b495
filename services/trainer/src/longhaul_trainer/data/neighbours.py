"""How often a sample is followed by the next sequence of the same source: chunks of one long document in a row."""

from __future__ import annotations

import numpy as np

from longhaul_trainer.data.permutation import Indices
from longhaul_trainer.data.samples import SampleOrder

COMPARED = 64


def consecutive_share(order: SampleOrder, cursor: int, samples: int) -> float:
    """Share of neighbours that follow each other in their source, over the first samples from `cursor` on.

    Near 0 where sequences are shuffled; near 1 where only documents are, or nothing is.
    """
    first = max(0, cursor)
    sources, sequences = order.locate(np.arange(first, first + min(samples, COMPARED) + 1, dtype=np.int64))
    return share_of_followers(sources, sequences)


def share_of_followers(sources: Indices, sequences: Indices) -> float:
    """Share of neighbours of one source whose sequence numbers follow each other."""
    follows = (np.diff(sequences) == 1) & (np.diff(sources) == 0)
    return float(follows.mean()) if follows.size else 0.0
