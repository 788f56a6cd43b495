"""Time of one step under a layout: a roofline of matrix products plus the communication that can't be hidden.

A few constants carry the software's quality; they are fitted to published runs (see the tests of this module, which
predict each row with the constants untouched) and not to the run being planned.
"""

from __future__ import annotations

from dataclasses import dataclass

from longhaul_training.domain.planning.hardware import Accelerator
from longhaul_training.domain.planning.layout import Layout, Recompute
from longhaul_training.domain.planning.sizing import ModelShape, ModelSize

# Width at which a matrix product reaches half of that share.
HALF_EFFICIENCY_WIDTH = 96
# Share of the computation under which collectives of FSDP can hide.
OVERLAP = 0.85
# Chunks of layers a pipeline stage interleaves at most.
MAX_VIRTUAL_STAGES = 6
# Loss a doubling of the number of nodes: stragglers, longer rings.
LOSS_PER_DOUBLING = 0.008
# Operations added by recomputation, as a factor of the forward and backward pass.
RECOMPUTE_FACTOR = {Recompute.NONE: 1.0, Recompute.SELECTIVE: 1.05, Recompute.FULL: 4.0 / 3.0}


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one optimizer step by where they go."""

    compute: float
    sharding: float
    tensor: float
    bubble: float
    jitter: float

    @property
    def total(self) -> float:
        """Seconds a step."""
        return self.compute + self.sharding + self.tensor + self.bubble + self.jitter


def estimate_step(shape: ModelShape, size: ModelSize, layout: Layout, gpu: Accelerator) -> StepTime:
    """Seconds of one step of `layout.data_parallel * micro_batches * micro_batch` sequences."""
    sequences = layout.data_parallel * layout.micro_batches * layout.micro_batch
    tokens = sequences * shape.sequence_length
    width = shape.hidden_size / layout.tensor_parallel**0.5
    efficiency = gpu.kernel_efficiency * width / (width + HALF_EFFICIENCY_WIDTH)
    flops = size.flops_per_token * tokens * RECOMPUTE_FACTOR[layout.recompute]
    compute = flops / (layout.gpus * gpu.peak_flops * efficiency)
    sharding = max(0.0, _sharding_seconds(size, layout, gpu) - OVERLAP * compute)
    tensor = _tensor_seconds(shape, layout, gpu, tokens)
    busy = compute + sharding + tensor
    chunks = min(MAX_VIRTUAL_STAGES, max(1, shape.layers // layout.pipeline_parallel))
    bubble = busy * (layout.pipeline_parallel - 1) / (layout.micro_batches * chunks)
    nodes = max(1.0, layout.gpus / gpu.gpus_per_node)
    jitter = (busy + bubble) * LOSS_PER_DOUBLING * max(0, int(nodes).bit_length() - 1)
    return StepTime(compute, sharding, tensor, bubble, jitter)


def _sharding_seconds(size: ModelSize, layout: Layout, gpu: Accelerator) -> float:
    """All-gathers in forward and backward and the reduce-scatter of one step, bf16."""
    if layout.data_parallel == 1:
        return 0.0
    local = size.parameters / (layout.tensor_parallel * layout.pipeline_parallel)
    inside_node = layout.gpus <= gpu.gpus_per_node
    # With pipeline stages the gathered weights are kept over the micro-batches of a step.
    gathers = 1 if layout.pipeline_parallel > 1 else layout.micro_batches
    return local * (4 * gathers + 2) / (gpu.node_link if inside_node else gpu.fabric_link)


def _tensor_seconds(shape: ModelShape, layout: Layout, gpu: Accelerator, tokens: int) -> float:
    """Four exposed all-gather / reduce-scatter pairs a layer on the activations (sequence parallel)."""
    degree = layout.tensor_parallel
    if degree == 1:
        return 0.0
    local_tokens = tokens / layout.data_parallel
    layers = shape.layers / layout.pipeline_parallel
    volume = 4 * 2 * 2 * shape.hidden_size * local_tokens * layers * (degree - 1) / degree
    return volume / gpu.node_link
