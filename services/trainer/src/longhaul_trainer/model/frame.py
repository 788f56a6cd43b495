"""What all layers of one forward pass share: rotations, masks, and where the tokens of this rank lie in their row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from longhaul_core.recipe import Position
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from longhaul_trainer.model.flex import block_mask
from longhaul_trainer.model.mask import alibi_bias, document_mask
from longhaul_trainer.model.rope import RotaryTable, Rotation
from longhaul_trainer.model.shape import DecoderShape

Gather = Callable[[Tensor], Tensor]


@dataclass(slots=True)
class Frame:
    """Made once a forward pass, outside of the blocks.

    positions: int64[B, S], of whole rows. columns: int64[T], the tokens of this rank where the row is spread over ranks
    (context parallel); ``gather`` then makes whole rows of keys and values.
    """

    shape: DecoderShape
    rotation: Rotation | None
    positions: Tensor
    columns: Tensor | None = None
    gather: Gather | None = None
    flex: bool = False
    _masks: dict[int, Tensor | None] = field(default_factory=dict)
    _blocks: dict[int, BlockMask] = field(default_factory=dict)

    def prepare(self, windows: Iterable[int]) -> None:
        """Makes the masks of these windows now: made inside of a compiled block they would cut it in two."""
        for window in windows:
            if self.flex:
                self.blocks(window)
            else:
                self.mask(window)

    def blocks(self, window: int) -> BlockMask:
        """Mask of layers with this window, for FlexAttention."""
        if window not in self._blocks:
            self._blocks[window] = block_mask(self.positions, window, self.columns)
        return self._blocks[window]

    def mask(self, window: int) -> Tensor | None:
        """Mask of layers with this window, or a bias where positions are ALiBi; None: plainly causal."""
        if window not in self._masks:
            self._masks[window] = self._make_mask(window)
        return self._masks[window]

    def _make_mask(self, window: int) -> Tensor | None:
        allowed = document_mask(self.positions, window, self.columns)
        if self.shape.position is not Position.ALIBI:
            return allowed
        length, device = self.positions.shape[1], self.positions.device
        bias = alibi_bias(self.shape.heads, length, self.columns, device)
        if allowed is None:
            allowed = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        return torch.where(allowed, bias, float("-inf"))


def make_frame(
    shape: DecoderShape,
    rotary: RotaryTable | None,
    positions: Tensor,
    columns: Tensor | None = None,
    gather: Gather | None = None,
    *,
    flex: bool = False,
) -> Frame:
    """The frame of a forward pass."""
    mine = positions if columns is None else positions[:, columns]
    return Frame(shape, None if rotary is None else rotary(mine), positions, columns, gather, flex)
