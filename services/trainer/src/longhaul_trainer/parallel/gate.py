"""The check before step 0: shards differ between ranks, replicas are bit-equal.

A common defect (parameters made under the same seed on each rank) trains without an error and costs the run; it shows
only here. One rule serves every layout: ranks that hold the same box of a tensor must agree, whether through replicas,
tensor parallelism or a tied head at the end of a pipeline; ranks that hold different boxes of it must not, be they
shards of FSDP, tensor or expert parallelism. Tensors of one value (norm gains, biases) are exempt from the latter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from blake3 import blake3
from longhaul_core.errors import FailedPrecondition
from pydantic import BaseModel, ConfigDict, TypeAdapter
from torch import Tensor, nn

from longhaul_trainer.loop.stops import AttemptFailed
from longhaul_trainer.parallel.group import RankGroup, digest_bytes
from longhaul_trainer.parallel.slices import local_box

_COMPARED_ELEMENTS = 512


class _Held(BaseModel):
    """A rank's box of a tensor: digests of all of it and of its beginning, as ranks' shards may differ in length."""

    model_config = ConfigDict(frozen=True)

    name: str
    box: tuple[int, ...]
    whole: str
    beginning: str
    constant: bool


_HELD = TypeAdapter(list[_Held])


def check_initial_parameters(model: nn.Module, group: RankGroup) -> None:
    """Compares every parameter and buffer over the ranks.

    Raises:
        FailedPrecondition: reason GATE_FAILED, with the names.
    """
    if group.size == 1:
        return
    by_name = _gathered(model, group)
    equal = [name for name, held in by_name.items() if _shards_are_alike(held)]
    different = [name for name, held in by_name.items() if _replicas_differ(held)]
    if equal or different:
        raise _failed(equal, different)


def check_replicas(model: nn.Module, group: RankGroup) -> None:
    """Compares the replicas while training goes on: a difference is silent corruption of one of them.

    Raises:
        AttemptFailed: reason REPLICAS_DIFFER, with the names.
    """
    if group.size == 1:
        return
    by_name = _gathered(model, group)
    different = [name for name, held in by_name.items() if _replicas_differ(held)]
    if different:
        raise AttemptFailed(
            f"Replicas differ between ranks: {', '.join(different)}",
            reason="REPLICAS_DIFFER",
            metadata={"different_replicas": ",".join(different)},
            action="resume from the last checkpoint; the nodes are to be checked",
        )


def _gathered(model: nn.Module, group: RankGroup) -> dict[str, list[_Held]]:
    by_name: dict[str, list[_Held]] = {}
    for document in group.gather_documents(_HELD.dump_json(list(_held(model)))):
        for held in _HELD.validate_json(document):
            by_name.setdefault(held.name, []).append(held)
    return by_name


def _shards_are_alike(held: Sequence[_Held]) -> bool:
    if any(one.constant for one in held):
        return False
    boxes = {one.box: one.beginning for one in held}
    return len(set(boxes.values())) < len(boxes)


def _replicas_differ(held: Sequence[_Held]) -> bool:
    boxes = {one.box for one in held}
    return len({(one.box, one.whole) for one in held}) > len(boxes)


def _held(model: nn.Module) -> Iterator[_Held]:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        box = local_box(tensor)
        yield _Held(
            name=name,
            box=box.offsets,
            whole=blake3(digest_bytes(box.local)).hexdigest(length=16),
            beginning=blake3(digest_bytes(box.local.flatten()[:_COMPARED_ELEMENTS])).hexdigest(length=16),
            constant=_is_constant(box.local),
        )


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
