"""The box of a parameter that this rank holds, whether the parameter is sharded or whole."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate


@dataclass(frozen=True, slots=True)
class Box:
    """A contiguous part of a tensor and the global index of its first element.

    ``replicas``: ranks that hold the same box; ``first``: whether this is the one that saves and counts it.
    """

    local: Tensor
    offsets: tuple[int, ...]
    replicas: int = 1
    first: bool = True


def local_box(tensor: Tensor) -> Box:
    """This rank's box of a tensor.

    The mesh dimensions lie from the one that was split last to the one that was split first (FSDP splits what tensor or
    expert parallelism has left), so that they are applied from the right.
    """
    if not isinstance(tensor, DTensor):
        return Box(tensor.detach(), (0,) * tensor.dim())
    mesh = tensor.device_mesh
    coordinate = mesh.get_coordinate()
    assert coordinate is not None
    offsets, sizes = [0] * tensor.dim(), list(tensor.shape)
    replicas, first = 1, True
    for dimension in reversed(range(mesh.ndim)):
        placement, ranks, rank = tensor.placements[dimension], mesh.size(dimension), coordinate[dimension]
        if isinstance(placement, Replicate):
            replicas *= ranks
            first &= rank == 0
            continue
        axis: int = placement.dim  # type: ignore[attr-defined]
        chunk = -(-sizes[axis] // ranks)
        begin = min(rank * chunk, sizes[axis])
        offsets[axis] += begin
        sizes[axis] = min(chunk, sizes[axis] - begin)
    local = tensor.to_local().detach()
    assert tuple(local.shape) == tuple(sizes), (tuple(local.shape), sizes)
    return Box(local, tuple(offsets), replicas, first)
