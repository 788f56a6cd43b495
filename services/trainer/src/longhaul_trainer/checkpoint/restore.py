"""Loads a committed checkpoint into whatever slices this rank holds.

Bytes are read straight into the tensors and digested on the way, so that damage is known only when it lies there
already: after an error the tensors must not be used, and whoever loads ends the attempt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from longhaul_core.digests import hash_bytes
from longhaul_core.errors import DataLoss, NotFound, Unavailable
from longhaul_core.logging import get_logger
from longhaul_core.manifests import Manifest, Part
from longhaul_core.objects import ObjectStore

from longhaul_trainer.checkpoint.part_header import StoredBox
from longhaul_trainer.checkpoint.part_source import NearPlace, StoredPart
from longhaul_trainer.checkpoint.part_stream import Plan, damaged, overlap_elements, stream_part
from longhaul_trainer.checkpoint.slices import TensorSlice
from longhaul_trainer.checkpoint.trainer_state import TRAINER_STATE_FILE, TrainerState, parse_trainer_state

MODEL_PART = "model-"
OPTIMIZER_PART = "optim-"
STORE = "store"

_log = get_logger(__name__)


@dataclass(slots=True)
class _Wanted:
    """A tensor to fill. ``missing``: elements that no part read so far held; ``taken``: boxes of those parts."""

    target: TensorSlice
    missing: int
    taken: list[StoredBox] = field(default_factory=list)

    def check(self, box: StoredBox, key: str) -> None:
        """Raises DataLoss where the box is not one of this tensor, or was in another part already."""
        if box.shape != self.target.shape or box.dtype != self.target.local.dtype:
            raise DataLoss(
                f"{box.name} is stored as {box.shape} {box.dtype}, not {self.target.shape} {self.target.local.dtype}",
                reason="CHECKPOINT_OF_ANOTHER_MODEL",
                metadata={"parameter": box.name},
                action="resume with the model configuration that wrote the checkpoint",
            )
        if any(_meet(box, earlier) for earlier in self.taken):
            raise DataLoss(
                f"Checkpoint part {key} holds elements of {box.name} that another part holds too",
                reason="PARTS_OVERLAP",
                metadata={"key": key, "parameter": box.name},
                action="resume from an earlier checkpoint",
            )

    def take(self, box: StoredBox) -> None:
        """The box was read and its part verified."""
        self.taken.append(box)
        target = self.target
        self.missing -= overlap_elements(target.offsets, tuple(target.local.shape), box.offsets, box.sizes)


def part_file_name(kind: str, rank: int, ranks: int) -> str:
    """Name of a rank's part: ``model-00000-of-00002.safetensors``."""
    return f"{kind}{rank_suffix(rank, ranks)}"


def rank_suffix(rank: int, ranks: int) -> str:
    """How the names of a rank's parts end."""
    return f"{rank:05d}-of-{ranks:05d}.safetensors"


def read_part(store: ObjectStore, part: Part) -> bytes:
    """The bytes of a small part, verified.

    Raises:
        DataLoss: missing, of another size or of another digest; names the part.
    """
    try:
        data = store.get(part.key)
    except NotFound as error:
        raise damaged(part, "PART_MISSING", "is missing") from error
    if len(data) != part.size:
        raise damaged(part, "PART_SIZE_DIFFERS", f"has {len(data)} bytes, not {part.size}")
    if hash_bytes(data) != part.digest:
        raise damaged(part, "PART_DIGEST_DIFFERS", "does not match its digest")
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
    near: Sequence[NearPlace] = (),
) -> Counter[str]:
    """Fills the targets from the parts of one kind, whatever layout wrote them.

    Parts whose names end in ``prefer`` are read first and reading stops when all rows are filled: a rank of an
    unchanged layout reads its own parts only. Each part is looked for in the near places first.

    Returns:
        bytes read, by the name of the place; the store's is ``STORE``.

    Raises:
        DataLoss: a part is damaged, or rows of a parameter are in no part. The targets then hold no meaningful values.
    """
    wanted = {target.name: _Wanted(target, max(1, target.local.numel())) for target in targets}
    for target in targets:
        if target.local.numel() == 0:
            wanted[target.name].missing = 0
    read: Counter[str] = Counter()
    for part in _ordered(manifest.parts, kind, prefer):
        if not any(entry.missing for entry in wanted.values()):
            break
        read[_restore_part(store, part, wanted, near)] += part.size
    _require_complete(manifest, wanted.values())
    return read


def stored_names(store: ObjectStore, manifest: Manifest, kind: str) -> dict[str, tuple[int, ...]]:
    """Name and whole shape of each tensor in the parts of one kind, each verified."""
    found: dict[str, tuple[int, ...]] = {}

    def note(boxes: Sequence[StoredBox]) -> Sequence[tuple[StoredBox, TensorSlice]]:
        found.update({box.name: box.shape for box in boxes})
        return ()

    for part in _ordered(manifest.parts, kind, ""):
        _stream_stored(store, part, note)
    return found


def _restore_part(store: ObjectStore, part: Part, wanted: Mapping[str, _Wanted], near: Sequence[NearPlace]) -> str:
    """Reads a part from the nearest place that has it intact; returns the place's name."""
    chosen: list[tuple[StoredBox, TensorSlice]] = []

    def choose(boxes: Sequence[StoredBox]) -> Sequence[tuple[StoredBox, TensorSlice]]:
        chosen.clear()
        for box in boxes:
            entry = wanted.get(box.name)
            if entry is not None and entry.missing:
                entry.check(box, part.key)
                chosen.append((box, entry.target))
        return chosen

    name = next((place.name for place in near if _stream_near(place, part, choose)), STORE)
    if name == STORE:
        _stream_stored(store, part, choose)
    for box, _ in chosen:
        wanted[box.name].take(box)
    return name


def _stream_near(place: NearPlace, part: Part, plan: Plan) -> bool:
    """Whether the place had the part intact; a copy that is not is dropped."""
    source = place.find(part)
    if source is None:
        return False
    try:
        stream_part(source, part, plan)
    except (DataLoss, NotFound, Unavailable, OSError) as error:
        _log.warning("near copy of a part not used", key=part.key, place=place.name, error=str(error))
        place.reject(part)
        return False
    return True


def _stream_stored(store: ObjectStore, part: Part, plan: Plan) -> None:
    """From the store; what came damaged is read once more, as it may have been hurt on the way only."""
    source = StoredPart(store, part.key)
    try:
        try:
            stream_part(source, part, plan)
        except DataLoss as error:
            if error.reason != "PART_DIGEST_DIFFERS":
                raise
            _log.warning("part read again", key=part.key, error=str(error))
            stream_part(source, part, plan)
    except NotFound as error:
        raise damaged(part, "PART_MISSING", "is missing") from error


def _ordered(parts: Iterable[Part], kind: str, prefer: str) -> Iterator[Part]:
    ours = [part for part in parts if part.key.rsplit("/", 1)[-1].startswith(kind)]
    yield from sorted(ours, key=lambda part: (not part.key.endswith(prefer), part.key))


def _meet(one: StoredBox, other: StoredBox) -> bool:
    return overlap_elements(one.offsets, one.sizes, other.offsets, other.sizes) > 0


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
