"""Builds this rank's part of the decoder, with initial values that no layout changes."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from longhaul_core.errors import InvalidArgument
from longhaul_core.recipe import AttentionPath, Position, Precision, TrainerConfig
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

from longhaul_trainer.model import Decoder, DecoderShape
from longhaul_trainer.model.float8 import use_float8
from longhaul_trainer.model.initialise import initialise
from longhaul_trainer.model.moe import Experts, MixtureOfExperts
from longhaul_trainer.parallel.context import ContextParallel
from longhaul_trainer.parallel.expert import ExpertExchange
from longhaul_trainer.parallel.grid import Grid
from longhaul_trainer.parallel.recomputation import recompute_blocks
from longhaul_trainer.parallel.tensor import split_matrices

_SMALL_UNIT_PARAMETERS = 4_000_000
_TIED = frozenset({"embed_tokens.weight"})


@dataclass(frozen=True, slots=True)
class Built:
    """This rank's part of the model.

    Attributes:
        model: owns every parameter of this rank.
        stages: the pipeline stages of this rank, in order; the model itself where there is one.
        copies: parameters that the first pipeline rank holds too; it saves and counts them.
    """

    model: Decoder
    stages: tuple[Decoder, ...]
    copies: frozenset[str]


def build_model(shape: DecoderShape, config: TrainerConfig, grid: Grid) -> Built:
    """The decoder on the group's device: whole for one float32 rank, else split and sharded."""
    layout, device = grid.layout, grid.group.device
    numbers = [
        grid.rank("pipe") + n * layout.pipeline_parallel for n in range(layout.stages // layout.pipeline_parallel)
    ]
    parts = [stage_layers(shape.layers, layout.stages, number) for number in numbers]
    first, last = 0 in numbers, layout.stages - 1 in numbers
    with torch.device("meta"):
        model = Decoder(shape, [layer for part in parts for layer in part], first=first, last=last)
    if grid.size("tensor") > 1:
        split_matrices(model, grid.mesh["tensor"])
    if config.runtime.precision is Precision.FLOAT8:
        use_float8(model, device)
    model.flex = uses_flex(config.runtime.attention, shape, device)
    recompute_blocks(model, config.runtime.recomputation)
    if config.runtime.compile:
        for block in model.layers.values():
            block.compile()
    _connect(model, grid)
    freeze(model, shape, config.optimizer.frozen)
    stages = [model]
    if len(parts) > 1:
        stages = [_view(model, part, number, layout.stages) for part, number in zip(parts, numbers, strict=True)]
    if grid.shard_mesh.size() > 1 or config.runtime.precision is not Precision.FLOAT32:
        _shard(model, stages, config, grid)
    model.to_empty(device=device)
    model.fill_buffers()
    initialise(model, config.seed, shape)
    tied_copy = last and not first and shape.tied_embeddings
    return Built(model, tuple(stages), _TIED if tied_copy else frozenset())


def freeze(model: Decoder, shape: DecoderShape, patterns: Sequence[str]) -> None:
    """Takes the matching parameters out of training; before sharding, which keeps the mark.

    Raises:
        InvalidArgument: a pattern matches nothing, or all of them everything.
    """
    with torch.device("meta"):
        whole = [name for name, _ in Decoder(shape).named_parameters()] if patterns else []
    for pattern in patterns:
        if not fnmatch.filter(whole, pattern):
            raise InvalidArgument(
                f"optimizer.frozen: no parameter matches {pattern!r}; there are {', '.join(whole[:4])}, …",
                violations=[("optimizer.frozen", f"{pattern!r} matches no parameter")],
            )
    if whole and all(_matches(name, patterns) for name in whole):
        raise InvalidArgument("optimizer.frozen leaves nothing to train", violations=[("optimizer.frozen", "is all")])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not _matches(name, patterns))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def uses_flex(path: AttentionPath, shape: DecoderShape, device: torch.device) -> bool:
    """Whether attention takes the fast path: on GPUs, unless a choice of the model has no mask of blocks."""
    possible = shape.position is not Position.ALIBI and shape.dropout == 0.0
    return possible and (path is AttentionPath.FLEX or (path is AttentionPath.AUTO and device.type == "cuda"))


def stage_layers(layers: int, stages: int, stage: int) -> range:
    """Layers of a pipeline stage: equally many, the first stages one more where they do not divide."""
    each, more = divmod(layers, stages)
    begin = stage * each + min(stage, more)
    return range(begin, begin + each + (stage < more))


def _view(model: Decoder, layers: range, stage: int, stages: int) -> Decoder:
    """A stage that shares its modules with the model."""
    view = copy.copy(model)
    view.first, view.last = stage == 0, stage == stages - 1
    held = {name: module for name, module in model._modules.items() if _belongs(name, view, model)}
    held["layers"] = nn.ModuleDict({str(layer): model.layers[str(layer)] for layer in layers})
    view._modules = held
    return view


def _belongs(name: str, view: Decoder, model: Decoder) -> bool:
    if name in ("norm", "lm_head"):
        return view.last
    if name == "embed_positions":
        return view.first
    if name == "embed_tokens":
        return view.first or (view.last and model.shape.tied_embeddings)
    return True


def _connect(model: Decoder, grid: Grid) -> None:
    """Tells the model which ranks to ask for keys and values, and which hold the experts."""
    if (ranks := grid.size("context")) > 1:
        model.context = ContextParallel(grid.mesh.get_group("context"), grid.rank("context"), ranks)
    if (ranks := grid.size("expert")) > 1:
        exchange = ExpertExchange(grid.mesh.get_group("expert"), ranks)
        for experts in _expert_modules(model):
            experts.exchange = exchange


def _expert_modules(model: Decoder) -> Iterator[Experts]:
    for block in model.layers.values():
        if isinstance(block.mlp, MixtureOfExperts):
            yield block.mlp.experts


def _shard(model: Decoder, stages: list[Decoder], config: TrainerConfig, grid: Grid) -> None:
    """Shards block by block; a model of a few million parameters is one unit, as each unit costs two collectives."""
    half = config.runtime.precision is not Precision.FLOAT32
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if half else None, reduce_dtype=torch.float32 if half else None
    )
    if grid.size("expert") > 1:
        _spread_experts(model, grid)
        for experts in _expert_modules(model):
            fully_shard(experts, mesh=grid.expert_shard_mesh, mp_policy=policy)
    if model.shape.parameters > _SMALL_UNIT_PARAMETERS or len(stages) > 1:
        for block in model.layers.values():
            fully_shard(block, mesh=grid.shard_mesh, mp_policy=policy)
    for stage in stages:
        fully_shard(stage, mesh=grid.shard_mesh, mp_policy=policy, reshard_after_forward=False)
        sum_gradients(stage)


def _spread_experts(model: Decoder, grid: Grid) -> None:
    """Makes the stacked matrices of the experts DTensors over the expert-parallel ranks."""
    for experts in _expert_modules(model):
        for name, parameter in list(experts.named_parameters(recurse=False)):
            spread = distribute_tensor(parameter, grid.mesh["expert"], [Shard(0)])
            experts.register_parameter(name, nn.Parameter(spread, requires_grad=parameter.requires_grad))


def sum_gradients(model: nn.Module) -> None:
    """Gradients are summed over ranks: the step divides them once by the global count of valid tokens."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def keep_shards_only(model: nn.Module) -> None:
    """Frees the whole parameters that a pass without a backward pass has left in place of this rank's shards."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def synchronise_gradients(model: nn.Module, wanted: bool) -> None:
    """Switches the reduction of gradients off for all but the last micro-batch of a step."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(wanted)
