"""Context parallel: rows are spread over ranks, and keys and values are gathered before attention.

Each rank holds one piece from the beginning and one from the end of a row, so that causal attention costs every rank
the same. Gathering keys and values moves 2·kv_heads / heads of what the queries weigh, little with grouped heads.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup


class ContextParallel:
    """This rank's share of every row."""

    def __init__(self, group: ProcessGroup, rank: int, ranks: int) -> None:
        self._group, self._rank, self._ranks = group, rank, ranks

    def columns(self, length: int, device: torch.device) -> Tensor:
        """int64[length / ranks]: this rank's places in a row."""
        return _columns(length, self._rank, self._ranks).to(device)

    def gather(self, part: Tensor) -> Tensor:
        """Whole rows, in order; the gradients of all ranks are summed. part: [B, H, T, D]; result: [B, H, S, D]."""
        gathered: Tensor = _Gather.apply(part, self._group, self._ranks)  # type: ignore[no-untyped-call]
        length = part.shape[2] * self._ranks
        order = torch.cat([_columns(length, rank, self._ranks) for rank in range(self._ranks)]).argsort()
        return gathered.index_select(2, order.to(part.device))


def _columns(length: int, rank: int, ranks: int) -> Tensor:
    piece = length // (2 * ranks)
    last = 2 * ranks - 1 - rank
    return torch.cat((torch.arange(rank * piece, (rank + 1) * piece), torch.arange(last * piece, (last + 1) * piece)))


class _Gather(torch.autograd.Function):
    """All-gather along the row; backward is the sum over ranks of each one's gradient for this rank's part."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: ProcessGroup, ranks: int) -> Tensor:
        ctx.group, ctx.ranks = group, ranks
        mine = part.contiguous()
        whole = mine.new_empty((ranks * len(mine), *mine.shape[1:]))
        dist.all_gather_into_tensor(whole, mine, group=group)
        return torch.cat(whole.chunk(ranks), dim=2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        pieces = torch.cat(gradient.chunk(ctx.ranks, dim=2)).contiguous()
        mine = torch.empty_like(pieces[: len(gradient)])
        dist.reduce_scatter_tensor(mine, pieces, group=ctx.group)
        return mine, None, None
