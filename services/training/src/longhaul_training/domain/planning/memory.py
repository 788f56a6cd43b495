"""Memory of one GPU under a layout, in bytes.

State: 16 bytes a parameter (float32 master weights, gradient and the two Adam moments) over all shards, plus the blocks
that FSDP2 holds gathered in bf16 (the one computed and the one prefetched) and the gradients of one block.
Activations: bf16, flash attention, so nothing is quadratic in the sequence. Logits: float32 with their gradient, for
one micro-batch, sharded by tensor parallelism.
"""

from __future__ import annotations

from dataclasses import dataclass

from longhaul_training.domain.planning.layout import Layout, Recompute
from longhaul_training.domain.planning.sizing import ModelShape, ModelSize

PARAMETER_BYTES = 4
GRADIENT_BYTES = 4
OPTIMIZER_BYTES = 8
GATHERED_BLOCKS = 2
# CUDA context, NCCL buffers, allocator fragmentation: measured 4-6 GiB on 80 GiB parts.
OVERHEAD_FRACTION = 0.06


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes on one GPU by what holds them."""

    parameters: int
    gradients: int
    optimizer: int
    gathered: int
    activations: int
    logits: int
    overhead: int

    @property
    def total(self) -> int:
        """Bytes in use at the peak of a step."""
        state = self.parameters + self.gradients + self.optimizer
        return state + self.gathered + self.activations + self.logits + self.overhead


def estimate_memory(
    shape: ModelShape, size: ModelSize, layout: Layout, gpu_memory_bytes: int, compute_bytes: int = 2
) -> MemoryEstimate:
    """Peak bytes of one GPU; the first pipeline stage, which holds the most micro-batches in flight.

    `compute_bytes`: bytes of a number in the forward and backward pass, 2 for bf16, 4 for float32.
    """
    tokens = layout.micro_batch * shape.sequence_length // layout.context_parallel
    layers = -(-shape.layers // layout.pipeline_parallel)
    block = max(size.layer_parameters, size.embedding_parameters if layout.pipeline_parallel == 1 else 0)
    in_flight = min(layout.micro_batches, layout.pipeline_parallel)
    return MemoryEstimate(
        parameters=PARAMETER_BYTES * size.parameters // layout.shards,
        gradients=GRADIENT_BYTES * size.parameters // layout.shards,
        optimizer=OPTIMIZER_BYTES * size.parameters // layout.shards,
        gathered=(compute_bytes * GATHERED_BLOCKS + GRADIENT_BYTES) * block // layout.tensor_parallel,
        activations=int(compute_bytes * _activations_per_token(shape, layout, layers) * tokens * in_flight),
        logits=8 * tokens * shape.vocabulary_size // layout.tensor_parallel,
        overhead=int(OVERHEAD_FRACTION * gpu_memory_bytes),
    )


def _activations_per_token(shape: ModelShape, layout: Layout, layers: int) -> float:
    """Numbers kept for the backward pass of one token on one stage (sequence parallel with tensor parallel)."""
    kv_width = 2 * shape.kv_heads * shape.head_size
    ffn_terms = 3 if shape.gated_ffn else 2
    inside = 4 * shape.hidden_size + 2 * shape.attention_width + kv_width + ffn_terms * shape.ffn_size
    boundary = shape.hidden_size
    kept: float
    if layout.recompute is Recompute.FULL:
        kept = layers * boundary + inside
    elif layout.recompute is Recompute.SELECTIVE:
        kept = layers * (boundary + 0.5 * inside)
    else:
        kept = layers * (boundary + inside)
    return kept / layout.tensor_parallel
