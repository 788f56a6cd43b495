"""Loads a committed checkpoint into whatever slices this rank holds; no byte is used before its digest was checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from longhaul_core.digests import hash_bytes
from longhaul_core.errors import DataLoss, NotFound
from longhaul_core.manifests import Manifest, Part
from longhaul_core.objects import ObjectStore
from torch import Tensor

from longhaul_trainer.checkpoint.local_tier import LocalTier
from longhaul_trainer.checkpoint.part_file import StoredSlice, parse_part
from longhaul_trainer.checkpoint.slices import TensorSlice
from longhaul_trainer.checkpoint.trainer_state import TRAINER_STATE_FILE, TrainerState, parse_trainer_state

MODEL_PART = "model-"
OPTIMIZER_PART = "optim-"


_Place = tuple[tuple[int, ...], tuple[int, ...]]
"""Offsets and shape of a box."""


@dataclass(slots=True)
class _Wanted:
    target: TensorSlice
    missing: int
    taken: list[_Place] = field(default_factory=list)

    def take(self, stored: StoredSlice, key: str) -> None:
        if stored.shape != self.target.shape or stored.values.dtype != self.target.local.dtype:
            raise DataLoss(
                f"{stored.name} is stored as {stored.shape} {stored.values.dtype}, "
                f"not {self.target.shape} {self.target.local.dtype}",
                reason="CHECKPOINT_OF_ANOTHER_MODEL",
                metadata={"parameter": stored.name},
                action="resume with the model configuration that wrote the checkpoint",
            )
        place = (stored.offsets, tuple(stored.values.shape))
        if any(_overlap(place, earlier) for earlier in self.taken):
            raise DataLoss(
                f"Checkpoint part {key} holds elements of {stored.name} that another part holds too",
                reason="PARTS_OVERLAP",
                metadata={"key": key, "parameter": stored.name},
                action="resume from an earlier checkpoint",
            )
        self.taken.append(place)
        self.missing -= _copy_overlap(self.target.local, self.target.offsets, stored.values, stored.offsets)


def part_file_name(kind: str, rank: int, ranks: int) -> str:
    """Name of a rank's part: ``model-00000-of-00002.safetensors``."""
    return f"{kind}{rank_suffix(rank, ranks)}"


def rank_suffix(rank: int, ranks: int) -> str:
    """How the names of a rank's parts end."""
    return f"{rank:05d}-of-{ranks:05d}.safetensors"


def read_part(store: ObjectStore, part: Part, near: LocalTier | None = None) -> bytes:
    """A part's bytes, verified; from the near tier where it has them.

    Raises:
        DataLoss: missing, of another size or of another digest; names the part.
    """
    kept = near.find(part) if near is not None else None
    if kept is not None:
        return kept
    try:
        data = store.get(part.key)
    except NotFound as error:
        raise _damaged(part, "PART_MISSING", "is missing") from error
    if len(data) != part.size:
        raise _damaged(part, "PART_SIZE_DIFFERS", f"has {len(data)} bytes, not {part.size}")
    if hash_bytes(data) != part.digest:
        raise _damaged(part, "PART_DIGEST_DIFFERS", "does not match its digest")
    return data


def read_trainer_state(store: ObjectStore, manifest: Manifest) -> TrainerState:
    """The trainer state of a checkpoint."""
    for part in manifest.parts:
        if part.key.endswith("/" + TRAINER_STATE_FILE):
            return parse_trainer_state(part.key, read_part(store, part))
    raise DataLoss(
        f"Checkpoint {manifest.name} has no {TRAINER_STATE_FILE}",
        reason="PART_MISSING",
        metadata={"checkpoint": manifest.name},
        action="resume from an earlier checkpoint",
    )


@torch.no_grad()
def restore_slices(
    store: ObjectStore,
    manifest: Manifest,
    kind: str,
    targets: Sequence[TensorSlice],
    *,
    prefer: str = "",
    near: LocalTier | None = None,
) -> int:
    """Fills the targets from the parts of one kind, whatever layout wrote them.

    Parts whose names end in ``prefer`` are read first and reading stops when all rows are filled: a rank of an
    unchanged layout reads its own parts only.

    Returns:
        bytes read.

    Raises:
        DataLoss: a part is damaged, or rows of a parameter are in no part.
    """
    wanted = {target.name: _Wanted(target, max(1, target.local.numel())) for target in targets}
    for target in targets:
        if target.local.numel() == 0:
            wanted[target.name].missing = 0
    read = 0
    for part in _ordered(manifest.parts, kind, prefer):
        if not any(entry.missing for entry in wanted.values()):
            break
        data = read_part(store, part, near)
        read += len(data)
        for stored in parse_part(part.key, data):
            entry = wanted.get(stored.name)
            if entry is not None and entry.missing:
                entry.take(stored, part.key)
    _require_complete(manifest, wanted.values())
    return read


def stored_names(store: ObjectStore, manifest: Manifest, kind: str) -> dict[str, tuple[int, ...]]:
    """Name and whole shape of each tensor in the parts of one kind."""
    found: dict[str, tuple[int, ...]] = {}
    for part in _ordered(manifest.parts, kind, ""):
        found |= {stored.name: stored.shape for stored in parse_part(part.key, read_part(store, part))}
    return found


def _ordered(parts: Iterable[Part], kind: str, prefer: str) -> Iterator[Part]:
    ours = [part for part in parts if part.key.rsplit("/", 1)[-1].startswith(kind)]
    yield from sorted(ours, key=lambda part: (not part.key.endswith(prefer), part.key))


def _copy_overlap(
    target: Tensor, target_offsets: tuple[int, ...], source: Tensor, source_offsets: tuple[int, ...]
) -> int:
    """Copies the box that both hold; returns the number of elements. A scalar overlaps as a whole."""
    into, out_of = [], []
    for place, size, other_place, other_size in zip(
        target_offsets, target.shape, source_offsets, source.shape, strict=True
    ):
        begin, end = max(place, other_place), min(place + size, other_place + other_size)
        if end <= begin:
            return 0
        into.append(slice(begin - place, end - place))
        out_of.append(slice(begin - other_place, end - other_place))
    part = source[tuple(out_of)]
    target[tuple(into)].copy_(part)
    return part.numel()


def _overlap(one: _Place, other: _Place) -> bool:
    sides = zip(*one, *other, strict=True)
    return all(a < b + m and b < a + n for a, n, b, m in sides)


def _require_complete(manifest: Manifest, wanted: Iterable[_Wanted]) -> None:
    lacking = [entry.target.name for entry in wanted if entry.missing]
    if lacking:
        shown = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
        raise DataLoss(
            f"Checkpoint {manifest.name} lacks elements of {shown}",
            reason="CHECKPOINT_INCOMPLETE",
            metadata={"checkpoint": manifest.name, "parameters": str(len(lacking))},
            action="resume from an earlier checkpoint",
        )


def _damaged(part: Part, reason: str, problem: str) -> DataLoss:
    return DataLoss(
        f"Checkpoint part {part.key} {problem}",
        reason=reason,
        metadata={"key": part.key},
        action="resume from an earlier checkpoint",
    )
