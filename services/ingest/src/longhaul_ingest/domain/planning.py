"""How the files of an ingestion are cut into shards. The cut depends on the files alone, never on who works on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from longhaul_core.recipe import SourceKind

SHARDS_WANTED: Final = 32
"""Enough to keep a small machine evenly busy and to show progress."""
MINIMUM_SHARD_BYTES: Final = 256 * 1024
MAXIMUM_SHARD_BYTES: Final = 128 * 1024 * 1024
"""A lost worker costs at most the work on one shard."""
FILE_COST_BYTES: Final = 2048
"""What opening a file weighs beside its bytes, so that a shard of tiny files stays small."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source.

    Attributes:
        path: The absolute path, percent-encoded (names need not be UTF-8), or the address of an object.
        label: The name to show: relative to the location, in UTF-8.
        size: Bytes.
        version: Changes when the file does: time of its last change, or the object's tag.
    """

    path: str
    label: str
    size: int
    version: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """The records of a file that begin in the bytes from `start` up to `end`; the file is still as of `version`."""

    path: str
    label: str
    start: int
    end: int
    version: str = ""

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start

    def to_list(self) -> list[Any]:
        """As plain JSON values."""
        return [self.path, self.label, self.start, self.end, self.version]


@dataclass(frozen=True, slots=True)
class Shard:
    """A piece of work: pieces of one source, which make one part of the dataset."""

    index: int
    source: str
    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(piece.size for piece in self.pieces)


def plan_shards(sources: Sequence[tuple[str, SourceKind, Sequence[SourceFile]]]) -> list[Shard]:
    """Cut the files of all sources, each given as (name, kind, files), keeping their order."""
    total = sum(file.size + FILE_COST_BYTES for _, _, files in sources for file in files)
    target = min(max(total // SHARDS_WANTED, MINIMUM_SHARD_BYTES), MAXIMUM_SHARD_BYTES)
    shards: list[Shard] = []
    for name, kind, files in sources:
        for pieces in _group(_cut(kind, files, target), target):
            shards.append(Shard(len(shards), name, tuple(pieces)))
    return shards


def is_divisible(kind: SourceKind, name: str) -> bool:
    """Whether readers find the first record after any position of such a file."""
    name = name.lower()
    if kind in (SourceKind.WARC, SourceKind.WET):
        return not name.endswith((".zst", ".bz2", ".xz"))
    if kind is SourceKind.JSONL:
        return not name.endswith((".gz", ".zst", ".bz2", ".xz"))
    return kind is SourceKind.PARQUET


def _cut(kind: SourceKind, files: Sequence[SourceFile], target: int) -> Iterator[Piece]:
    for file in files:
        count = max(1, round(file.size / target)) if is_divisible(kind, file.label) else 1
        bounds = [file.size * index // count for index in range(count + 1)]
        for start, end in pairwise(bounds):
            yield Piece(file.path, file.label, start, end, file.version)


def _group(pieces: Iterator[Piece], target: int) -> Iterator[list[Piece]]:
    group: list[Piece] = []
    weight = 0
    for piece in pieces:
        if group and weight + piece.size > target:
            yield group
            group, weight = [], 0
        group.append(piece)
        weight += piece.size + FILE_COST_BYTES
    if group:
        yield group
