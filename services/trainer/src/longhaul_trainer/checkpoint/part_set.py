"""The parts of one kind that a rank writes: tensors that move, and, apart from them, tensors that stand still.

A part whose bytes are those of an earlier checkpoint is not written again, so tensors that do not change belong
together. Frozen parameters are known beforehand; of the others a sample of elements is compared from save to save. The
sample only decides where a tensor lies: whether a part is written again is decided by its digest.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from longhaul_trainer.checkpoint.part_file import PartImage
from longhaul_trainer.checkpoint.restore import part_file_name
from longhaul_trainer.checkpoint.slices import TensorSlice

STILL = "still-"


class PartSet:
    """One or two part files of a rank, laid out anew when the set of tensors that stand still changes."""

    def __init__(
        self, kind: str, slices: Sequence[TensorSlice], *, rank: int, ranks: int, frozen: Collection[str] = ()
    ) -> None:
        self._moving_name = part_file_name(kind, rank, ranks)
        self._still_name = part_file_name(f"{kind}{STILL}", rank, ranks)
        self._slices = [one for one in slices if one.saved]
        self._frozen = frozenset(one.name for one in self._slices if one.name in frozen)
        self._still = self._frozen
        self._samples: dict[str, str] = {}
        self.images: list[PartImage] = []
        self._lay_out()

    def fill(self) -> None:
        """Copies the tensors' present values; returns when they have arrived."""
        for image in self.images:
            image.fill()

    def learn(self) -> None:
        """After a save: what did not change since the save before is laid apart for the next one."""
        samples = {name: sample for image in self.images for name, sample in image.samples().items()}
        still = self._frozen | {name for name, sample in samples.items() if self._samples.get(name) == sample}
        self._samples = samples
        if still != self._still:
            self._still = still
            self._lay_out()

    def _lay_out(self) -> None:
        self.images = []
        moving = [one for one in self._slices if one.name not in self._still]
        still = [one for one in self._slices if one.name in self._still]
        self.images.append(PartImage(self._moving_name, moving))
        if still:
            self.images.append(PartImage(self._still_name, still))
