"""Pipeline parallel: the stages of this rank under one of torch's schedules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from longhaul_core.recipe import PipelineSchedule
from torch import Tensor
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleInterleaved1F1B
from torch.distributed.pipelining.schedules import ScheduleInterleavedZeroBubble

from longhaul_trainer.model import Decoder
from longhaul_trainer.parallel.grid import Grid
from longhaul_trainer.parallel.sharding import Built

Loss = Callable[[Tensor, Tensor], Tensor]


class _Stage(PipelineStage):
    """A stage whose trial pass, by which torch learns the shapes, leaves no trace in the experts' counts."""

    def _forward_metadata_inference(self, *arguments: Any, **options: Any) -> Any:
        found = super()._forward_metadata_inference(*arguments, **options)
        assert isinstance(self.submod, Decoder)
        for _, router in self.submod.routers():
            router.counts.zero_()
        return found


class Pipeline:
    """Runs all micro-batches of a step through the stages; every stage gets tokens' positions, the first the tokens."""

    def __init__(self, built: Built, grid: Grid, micro_batches: int, loss: Loss) -> None:
        layout, group = grid.layout, grid.mesh.get_group("pipe")
        rank = grid.rank("pipe")
        self._stages = [
            _Stage(stage, rank + number * layout.pipeline_parallel, layout.stages, grid.group.device, group=group)
            for number, stage in enumerate(built.stages)
        ]
        options: dict[str, Any] = {"n_microbatches": micro_batches, "loss_fn": loss, "scale_grads": False}
        if layout.pipeline_schedule is PipelineSchedule.ONE_F_ONE_B:
            self._schedule: Any = Schedule1F1B(self._stages[0], **options)
        elif layout.pipeline_schedule is PipelineSchedule.INTERLEAVED:
            self._schedule = ScheduleInterleaved1F1B(self._stages, **options)  # type: ignore[arg-type]
        else:
            self._schedule = ScheduleInterleavedZeroBubble(self._stages, **options)  # type: ignore[arg-type]
        self._first, self._last = rank == 0, grid.is_last_stage

    def step(self, tokens: Tensor, labels: Tensor, positions: Tensor) -> Tensor:
        """Forward and backward pass; the summed loss on the last rank, zero on the others."""
        losses: list[Tensor] | None = [] if self._last else None
        inputs = (tokens,) if self._first else ()
        self._schedule.step(*inputs, target=labels if self._last else None, losses=losses, positions=positions)
        return torch.stack(losses).detach().double().sum() if losses else tokens.new_zeros((), dtype=torch.float64)

    @torch.no_grad()
    def evaluate(self, tokens: Tensor, labels: Tensor, positions: Tensor) -> Tensor:
        """Forward pass only, of a batch of the same size."""
        losses: list[Tensor] | None = [] if self._last else None
        inputs = (tokens,) if self._first else ()
        self._schedule.eval(*inputs, target=labels if self._last else None, losses=losses, positions=positions)
        return torch.stack(losses).double().sum() if losses else tokens.new_zeros((), dtype=torch.float64)
