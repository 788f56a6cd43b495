"""The rows of a parameter that this rank holds, whether the parameter is sharded or whole."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset


def local_slice(tensor: Tensor) -> tuple[Tensor, int]:
    """This rank's part of a tensor and the global index of its first row."""
    if not isinstance(tensor, DTensor):
        return tensor.detach(), 0
    _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tensor.to_local().detach(), (offset[0] if offset else 0)
