"""Expert parallel: rows go to the ranks that hold their experts, and the outputs come back."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from longhaul_trainer.model.moe import Compute


class ExpertExchange:
    """Moves rows over one group, whose ranks hold equally many experts each, in order."""

    def __init__(self, group: ProcessGroup, ranks: int) -> None:
        self._group, self._ranks = group, ranks

    def __call__(self, rows: Tensor, counts: Tensor, compute: Compute) -> Tensor:
        """Outputs of the rows, in their order. rows: [N, C], ordered by expert; counts: int64[experts]."""
        theirs = torch.empty_like(counts)
        dist.all_to_all_single(theirs, counts.contiguous(), group=self._group)
        sent = counts.view(self._ranks, -1).sum(dim=1).tolist()
        received = theirs.view(self._ranks, -1).sum(dim=1).tolist()
        arrived: Tensor = _Exchange.apply(rows, sent, received, self._group)  # type: ignore[no-untyped-call]
        by_sender = theirs.view(self._ranks, -1)
        order = _by_expert(by_sender)
        out = compute(arrived[order], by_sender.sum(dim=0))
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        back: Tensor = _Exchange.apply(out[place], received, sent, self._group)  # type: ignore[no-untyped-call]
        return back


def _by_expert(by_sender: Tensor) -> Tensor:
    """Order that brings rows that arrived by sender, then expert, into that of expert, then sender."""
    experts = torch.arange(by_sender.shape[1], device=by_sender.device).expand_as(by_sender)
    return experts.flatten().repeat_interleave(by_sender.flatten()).argsort(stable=True)


class _Exchange(torch.autograd.Function):
    """All-to-all of rows; the gradient goes the opposite way."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sent: list[int], received: list[int], group: ProcessGroup) -> Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        return _move(rows, sent, received, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _move(gradient, ctx.received, ctx.sent, ctx.group), None, None, None


def _move(rows: Tensor, sent: list[int], received: list[int], group: ProcessGroup) -> Tensor:
    arrived = rows.new_empty((sum(received), *rows.shape[1:]))
    dist.all_to_all_single(arrived, rows.contiguous(), received, sent, group=group)
    return arrived
