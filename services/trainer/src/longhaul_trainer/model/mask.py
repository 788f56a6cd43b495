"""Which earlier tokens a token may see: those of its own document."""

from __future__ import annotations

import torch
from torch import Tensor


def document_mask(positions: Tensor) -> Tensor | None:
    """Causal mask inside documents, from positions that restart at each document.

    Returns None when every row holds one document, so that attention may take its causal fast path.

    positions: int64[B, T]; result: bool[B, 1, T, T], true where attention is allowed.
    """
    starts = positions == 0
    if not bool(starts[:, 1:].any()):
        return None
    document = starts.cumsum(dim=1)
    same = document.unsqueeze(2) == document.unsqueeze(1)
    length = positions.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=positions.device).tril()
    return (same & causal).unsqueeze(1)
