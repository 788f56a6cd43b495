"""Parallel layouts: which are possible for a model, a batch and a number of GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from longhaul_training.domain.planning.sizing import ModelShape


class Recompute(Enum):
    """What of the forward pass is computed again in the backward pass."""

    NONE = "none"
    SELECTIVE = "selective"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Layout:
    """Degrees of parallelism; their product is the number of GPUs. `shards` GPUs share one copy of the state."""

    data_parallel: int
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    context_parallel: int = 1
    micro_batch: int = 1
    micro_batches: int = 1
    recompute: Recompute = Recompute.NONE

    @property
    def gpus(self) -> int:
        """GPUs that the layout uses."""
        return self.data_parallel * self.tensor_parallel * self.pipeline_parallel * self.context_parallel

    @property
    def shards(self) -> int:
        """GPUs over which parameters, gradients and optimizer state are spread."""
        return self.gpus


def layout_problems(shape: ModelShape, layout: Layout, gpus: int, gpus_per_node: int) -> list[str]:
    """Why `layout` can't run `shape` on `gpus` GPUs; empty when it can."""
    tensor, pipeline = layout.tensor_parallel, layout.pipeline_parallel
    problems = []
    if layout.gpus != gpus:
        problems.append(
            f"data {layout.data_parallel} x tensor {tensor} x pipeline {pipeline} x context {layout.context_parallel} "
            f"= {layout.gpus}, but the run has {gpus} GPUs"
        )
    if tensor > gpus_per_node:
        problems.append(f"tensor_parallel {tensor} crosses nodes of {gpus_per_node} GPUs")
    if shape.heads % tensor or shape.ffn_size % tensor:
        problems.append(f"tensor_parallel {tensor} does not divide {shape.heads} heads and ffn_size {shape.ffn_size}")
    elif shape.kv_heads % tensor and tensor % shape.kv_heads:
        problems.append(f"tensor_parallel {tensor} and {shape.kv_heads} key-value heads do not divide one another")
    if pipeline > shape.layers:
        problems.append(f"pipeline_parallel {pipeline} is more than the {shape.layers} layers")
    if shape.sequence_length % (2 * layout.context_parallel) and layout.context_parallel > 1:
        problems.append(f"context_parallel {layout.context_parallel} does not divide {shape.sequence_length} in halves")
    return problems


def candidate_layouts(shape: ModelShape, gpus: int, gpus_per_node: int, batch_sequences: int) -> Iterator[Layout]:
    """All layouts worth pricing: powers of two within a node for tensor, divisors of the batch for data parallel."""
    for tensor in (t for t in (1, 2, 4, 8) if t <= gpus_per_node and gpus % t == 0):
        for pipeline in (p for p in (1, 2, 4, 8, 16) if gpus % (tensor * p) == 0):
            data = gpus // (tensor * pipeline)
            if batch_sequences % data:
                continue
            yield from _micro_batchings(shape, data, tensor, pipeline, batch_sequences // data, gpus, gpus_per_node)


def _micro_batchings(
    shape: ModelShape, data: int, tensor: int, pipeline: int, local: int, gpus: int, gpus_per_node: int
) -> Iterator[Layout]:
    for micro_batch in (b for b in (1, 2, 4, 8, 16, 32) if local % b == 0):
        for recompute in Recompute:
            layout = Layout(
                data_parallel=data,
                tensor_parallel=tensor,
                pipeline_parallel=pipeline,
                micro_batch=micro_batch,
                micro_batches=local // micro_batch,
                recompute=recompute,
            )
            if not layout_problems(shape, layout, gpus, gpus_per_node):
                yield layout
