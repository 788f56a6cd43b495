"""Builds the decoder sharded over the data-parallel ranks (FSDP2), with initial values that no layout changes."""

from __future__ import annotations

import torch
from longhaul_core.recipe import Precision, TrainerConfig
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from longhaul_trainer.model import Decoder, DecoderShape
from longhaul_trainer.model.initialise import initialise
from longhaul_trainer.parallel.group import RankGroup

_SMALL_UNIT_PARAMETERS = 4_000_000


def build_model(shape: DecoderShape, config: TrainerConfig, group: RankGroup) -> Decoder:
    """The decoder on the group's device: whole for one float32 rank, else sharded by rows."""
    with torch.device("meta"):
        model = Decoder(shape)
    if group.size > 1 or config.runtime.precision is Precision.BFLOAT16:
        _shard(model, config, group)
    model.to_empty(device=group.device)
    model.rotary.fill()
    initialise(model, config.seed, shape.init_std)
    return model


def _shard(model: Decoder, config: TrainerConfig, group: RankGroup) -> None:
    """Shards block by block; a model of a few million parameters is one unit, as each unit costs two collectives."""
    assert group.mesh is not None
    half = config.runtime.precision is Precision.BFLOAT16
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16 if half else None, reduce_dtype=torch.float32)
    if model.shape.parameters > _SMALL_UNIT_PARAMETERS:
        for block in model.layers:
            fully_shard(block, mesh=group.mesh, mp_policy=policy)
    fully_shard(model, mesh=group.mesh, mp_policy=policy, reshard_after_forward=False)
    sum_gradients(model)


def sum_gradients(model: nn.Module) -> None:
    """Gradients are summed over ranks: the step divides them once by the global count of valid tokens."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def synchronise_gradients(model: nn.Module, wanted: bool) -> None:
    """Switches the reduction of gradients off for all but the last micro-batch of a step."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(wanted)
