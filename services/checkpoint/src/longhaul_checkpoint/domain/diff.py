"""Difference of two checkpoints by their parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from longhaul_checkpoint.domain.parts import Part


class Change(StrEnum):
    """How a part differs."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class PartDifference:
    """One part's path, what became of it, and both sides where they exist."""

    path: str
    change: Change
    before: Part | None
    after: Part | None


def diff_parts(before: Sequence[Part], after: Sequence[Part]) -> list[PartDifference]:
    """Return every part of either side, in the order of paths."""
    left = {part.path: part for part in before}
    right = {part.path: part for part in after}
    return [_difference(path, left.get(path), right.get(path)) for path in sorted(left.keys() | right.keys())]


def _difference(path: str, before: Part | None, after: Part | None) -> PartDifference:
    if before is None:
        change = Change.ADDED
    elif after is None:
        change = Change.REMOVED
    else:
        change = Change.UNCHANGED if before.digest == after.digest else Change.CHANGED
    return PartDifference(path, change, before, after)
