"""Which earlier tokens a token may see: those of its own document, perhaps only the nearest."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def documents_of(positions: Tensor) -> Tensor:
    """Number of each token's document in its row. positions: int64[B, T], restarting at each document."""
    return (positions == 0).cumsum(dim=1)


def document_mask(positions: Tensor, window: int = 0, columns: Tensor | None = None) -> Tensor | None:
    """Causal mask inside documents, from positions that restart at each document.

    Returns None when every row holds one document and every query sees all before it, so that attention may take its
    causal fast path.

    Args:
        positions: int64[B, S], of all tokens.
        window: tokens to look back, itself included; 0: all.
        columns: int64[T], which tokens ask; all of them where None.

    Returns:
        bool[B, 1, T, S], true where attention is allowed.
    """
    batch, length = positions.shape
    windowed = 0 < window < length
    if columns is None and not windowed and not bool((positions[:, 1:] == 0).any()):
        return None
    place = torch.arange(length, device=positions.device)
    asking = place if columns is None else columns
    behind = asking[:, None] - place[None, :]
    seen = behind >= 0
    if windowed:
        seen &= behind < window
    document = documents_of(positions)
    same = document[:, asking].unsqueeze(2) == document.unsqueeze(1)
    return (same & seen).view(batch, 1, len(asking), length)


def alibi_bias(heads: int, length: int, columns: Tensor | None, device: torch.device) -> Tensor:
    """Penalty that grows with the distance, by a slope of each head (Press et al. 2022). Result: float32[H, T, S]."""
    place = torch.arange(length, device=device)
    asking = place if columns is None else columns
    distance = (place[None, :] - asking[:, None]).clamp(max=0).float()
    return alibi_slopes(heads).to(device)[:, None, None] * distance


def alibi_slopes(heads: int) -> Tensor:
    """A geometric sequence; where heads is no power of two, the rest comes from every second of the next power."""
    whole = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (head + 1) / whole) for head in range(whole)]
    slopes += [2.0 ** (-4.0 * (2 * head + 1) / whole) for head in range(heads - whole)]
    return torch.tensor(slopes)
