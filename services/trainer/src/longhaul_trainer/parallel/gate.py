"""The check before step 0: shards differ between ranks, replicas are bit-equal.

A common defect (parameters made under the same seed on each rank) trains without an error and costs the run; it shows
only here.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from blake3 import blake3
from longhaul_core.errors import FailedPrecondition
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from longhaul_trainer.parallel.group import RankGroup, digest_bytes

_DIGEST_BYTES = 16
_COMPARED_ELEMENTS = 512


def check_initial_parameters(model: nn.Module, group: RankGroup) -> None:
    """Compares digests of every parameter and buffer over the ranks.

    Raises:
        FailedPrecondition: reason GATE_FAILED, with the names.
    """
    if group.size == 1:
        return
    named = list(_tensors(model))
    digests = b"".join(_digest(sharded, local) for _, sharded, local in named)
    per_rank = group.gather_bytes(digests)
    constant = group.sum([float(_is_constant(local)) for _, _, local in named])
    equal, different = [], []
    for index, (name, sharded, _) in enumerate(named):
        span = slice(index * _DIGEST_BYTES, (index + 1) * _DIGEST_BYTES)
        values = [rank[span] for rank in per_rank]
        if sharded and constant[index] == 0 and len(set(values)) < group.size:
            equal.append(name)
        if not sharded and len(set(values)) > 1:
            different.append(name)
    if equal or different:
        raise _failed(equal, different)


def _tensors(model: nn.Module) -> Iterator[tuple[str, bool, Tensor]]:
    for name, parameter in model.named_parameters():
        if isinstance(parameter, DTensor):
            sharded = any(isinstance(placement, Shard) for placement in parameter.placements)
            yield name, sharded, parameter.to_local().detach()
        else:
            yield name, False, parameter.detach()
    yield from ((name, False, buffer) for name, buffer in model.named_buffers())


def _digest(sharded: bool, local: Tensor) -> bytes:
    """Of a whole replica; of the beginning of a shard, as ranks' shards may differ in length."""
    compared = local.flatten()[:_COMPARED_ELEMENTS] if sharded else local
    return blake3(digest_bytes(compared)).digest(_DIGEST_BYTES)


def _is_constant(local: Tensor) -> bool:
    """Norm gains, and the empty shards of small parameters, are alike on all ranks by rule."""
    return local.numel() == 0 or bool(torch.all(local == local.flatten()[0]))


def _failed(equal: list[str], different: list[str]) -> FailedPrecondition:
    parts = []
    if equal:
        parts.append(f"shards start equal on several ranks: {', '.join(equal)}")
    if different:
        parts.append(f"replicas differ between ranks: {', '.join(different)}")
    return FailedPrecondition(
        "Step-0 gate: " + "; ".join(parts),
        reason="GATE_FAILED",
        metadata={"equal_shards": ",".join(equal), "different_replicas": ",".join(different)},
        action="initialise by (seed, name, global index); do not seed ranks alike",
    )
