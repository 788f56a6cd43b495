"""Tensor and sequence parallel: matrices split over heads and hidden channels, the residual stream along the row.

Between the split parts each rank keeps its share of every row (Korthikanti et al. 2022), so that norms and residual
additions are not computed twice.
"""

from __future__ import annotations

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from longhaul_trainer.model import Decoder
from longhaul_trainer.model.attention import Attention

_ROW = Shard(1)


def split_matrices(model: Decoder, mesh: DeviceMesh) -> None:
    """Makes every parameter a DTensor over the tensor-parallel ranks."""
    for block in model.layers.values():
        parallelize_module(block, mesh, _block_plan(block))
    top: dict[str, ParallelStyle] = {}
    if model.first:
        top["embed_tokens"] = RowwiseParallel(input_layouts=Replicate(), output_layouts=_ROW)
    elif model.last and model.shape.tied_embeddings:
        top["embed_tokens"] = RowwiseParallel()
    if model.last:
        top["norm"] = SequenceParallel()
        if not model.shape.tied_embeddings:
            top["lm_head"] = ColwiseParallel(input_layouts=_ROW, output_layouts=Replicate())
    parallelize_module(model, mesh, top)


def _block_plan(block: nn.Module) -> dict[str, ParallelStyle]:
    plan: dict[str, ParallelStyle] = {
        "input_layernorm": SequenceParallel(),
        "self_attn": PrepareModuleInput(input_layouts=(_ROW, None), desired_input_layouts=(Replicate(), None)),
        "self_attn.q_proj": ColwiseParallel(),
        "self_attn.k_proj": ColwiseParallel(),
        "self_attn.v_proj": ColwiseParallel(),
        "self_attn.o_proj": RowwiseParallel(output_layouts=_ROW),
        "post_attention_layernorm": SequenceParallel(),
        "mlp": PrepareModuleInput(input_layouts=(_ROW,), desired_input_layouts=(Replicate(),)),
        "mlp.up_proj": ColwiseParallel(),
        "mlp.down_proj": RowwiseParallel(output_layouts=_ROW),
    }
    if getattr(block.mlp, "gate_proj", None) is not None:
        plan["mlp.gate_proj"] = ColwiseParallel()
    attention = block.self_attn
    if isinstance(attention, Attention) and attention.q_norm is not None:
        heads = SequenceParallel(sequence_dim=2, use_local_output=True)
        plan |= {"self_attn.q_norm": heads, "self_attn.k_norm": heads}
    return plan
