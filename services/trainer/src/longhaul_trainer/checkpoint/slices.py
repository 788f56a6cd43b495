"""What is saved: named tensors, each with the box that this rank holds of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from longhaul_trainer.optimizer.update import Update
from longhaul_trainer.parallel.slices import Box, local_box


@dataclass(frozen=True, slots=True)
class TensorSlice:
    """A box of a tensor, from ``offsets`` on; a scalar is held whole by every rank.

    ``saved``: whether this rank's copy is the one that is written; of replicas one is enough.
    """

    name: str
    local: Tensor
    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    saved: bool = True


def model_slices(model: nn.Module, *, copies: frozenset[str] = frozenset()) -> list[TensorSlice]:
    """This rank's part of each parameter and lasting buffer, by its full name.

    ``copies``: names that another rank saves, as it holds them too (a tied head at the end of a pipeline).
    """
    found = []
    for name, parameter in model.named_parameters():
        found.append(_slice(name, tuple(parameter.shape), local_box(parameter), copies=name in copies))
    lasting = model.state_dict(keep_vars=True).keys()
    for name, buffer in model.named_buffers():
        if name in lasting:
            found.append(TensorSlice(name, buffer, tuple(buffer.shape), (0,) * buffer.dim()))
    return found


def optimizer_slices(model: nn.Module, optimizer: Update, *, copies: frozenset[str] = frozenset()) -> list[TensorSlice]:
    """This rank's part of the optimizer's moments and step counts, by ``{moment}.{parameter}``."""
    found = []
    for name, parameter in model.named_parameters():
        box, copied = local_box(parameter), name in copies
        for moment, value in optimizer.state.get(parameter, {}).items():
            if value.dim() == 0:
                found.append(TensorSlice(f"{moment}.{name}", local_box(value).local, (), (), not copied and box.first))
            else:
                found.append(_slice(f"{moment}.{name}", tuple(parameter.shape), local_box(value), copies=copied))
    return found


def _slice(name: str, shape: tuple[int, ...], box: Box, *, copies: bool) -> TensorSlice:
    return TensorSlice(name, box.local, shape, box.offsets, saved=box.first and not copies)
