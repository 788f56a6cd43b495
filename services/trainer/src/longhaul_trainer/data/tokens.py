"""One source's tokens as a single virtual stream over memory-mapped shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from longhaul_core.errors import DataLoss
from numpy.typing import DTypeLike, NDArray

from longhaul_trainer.data.permutation import Indices
from longhaul_trainer.data.streaming import BoundedFile, BoundedTokens, StreamedFile, StreamedTokens

IGNORED_LABEL = -100

TokenFile = Path | StreamedFile | BoundedFile
"""Tokens on this machine, streamed into a cache that keeps all, or into one that is bounded."""


class TokenStream:
    """Concatenated documents of one source and split.

    Shards are little-endian token arrays; the index of each holds its documents' cumulative ends. The end-of-text token
    that closes a document opens the next one: it is the last label of the one and the first input of the other. So the
    model learns how documents begin and end, no label is lost, and nothing is predicted across documents.
    """

    def __init__(self, name: str, shards: Sequence[tuple[TokenFile, Path]], dtype: DTypeLike) -> None:
        self.name = name
        self._shards = [_map(tokens, dtype) for tokens, _ in shards]
        self._firsts = np.cumsum([0, *(shard.size for shard in self._shards)], dtype=np.int64)
        ends = self._document_ends([index for _, index in shards])
        self.documents = int(ends.size)
        self._starts = np.append(0, ends - 1)

    @property
    def tokens(self) -> int:
        """Tokens in the stream."""
        return int(self._firsts[-1])

    def document_bounds(self) -> tuple[Indices, Indices]:
        """First input and end (exclusive) of the inputs of each document that has any: int64[documents] each.

        The first input of a document is the end-of-text token before it, the last one is the token before its own.
        """
        begins = self._starts[:-1]
        ends = self._starts[1:]
        whole = ends > begins
        return begins[whole], ends[whole]

    def end_of_text(self) -> int:
        """The token that closes the first document."""
        last = np.empty(1, dtype=np.int64)
        self.copy(int(self._starts[1]), last)
        return int(last[0])

    def sequences(self, length: int) -> int:
        """Sequences of ``length`` inputs, each with one further token as the last label."""
        return max(0, (self.tokens - 1) // length)

    def gather(self, sequences: Indices, length: int) -> tuple[Indices, Indices]:
        """Tokens and positions of fixed-length sequences.

        Args:
            sequences: int64[N], each below ``sequences(length)``.
            length: inputs a sequence.

        Returns:
            tokens: int64[N, length + 1], inputs and the last label; positions: int64[N, length], restarting at each
            document and at the sequence's beginning.
        """
        firsts = sequences * length
        tokens = np.empty((sequences.size, length + 1), dtype=np.int64)
        for row, first in zip(tokens, firsts.tolist(), strict=True):  # a sequence is one run of memory: copied whole
            self.copy(first, row)
        return tokens, self._positions(firsts, length)

    def copy(self, first: int, target: Indices) -> None:
        """Copy the tokens from `first` on, over as many shards as they lie in."""
        shard = int(np.searchsorted(self._firsts, first, side="right")) - 1
        done = 0
        while done < target.size:
            within = first + done - int(self._firsts[shard])
            part = self._shards[shard][within : within + target.size - done]
            target[done : done + part.size] = part
            done += part.size
            shard += 1

    def _positions(self, firsts: Indices, length: int) -> Indices:
        """Distance of each input from the beginning of its document, or of the sequence: int64[N, length]."""
        low = np.searchsorted(self._starts, firsts, side="left")
        counts = np.searchsorted(self._starts, firsts + length, side="left") - low
        rows = np.arange(firsts.size) * length
        before = np.cumsum(counts) - counts
        numbers = np.arange(int(counts.sum())) + np.repeat(low - before, counts)
        inner = self._starts[numbers] + np.repeat(rows - firsts, counts)
        begins = np.unique(np.concatenate([rows, inner]))
        sizes = np.diff(begins, append=firsts.size * length)
        flat: Indices = np.arange(firsts.size * length) - np.repeat(begins, sizes)
        return flat.reshape(firsts.size, length)

    def _document_ends(self, indexes: Sequence[Path]) -> Indices:
        parts = []
        for number, path in enumerate(indexes):
            ends = np.fromfile(path, dtype="<u8").astype(np.int64)
            size = int(self._shards[number].size)
            if (int(ends[-1]) if ends.size else 0) != size or (np.diff(ends) < 0).any():
                raise DataLoss(
                    f"The document index {path.name} of source {self.name} does not fit its shard of {size} tokens",
                    reason="TOKEN_INDEX_DAMAGED",
                    action="verify the token set and build it again if it is damaged",
                )
            parts.append(ends + self._firsts[number])
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _map(file: TokenFile, dtype: DTypeLike) -> NDArray[Any] | StreamedTokens | BoundedTokens:
    kind = np.dtype(dtype).newbyteorder("<")
    size = file.stat().st_size if isinstance(file, Path) else file.size
    if size % kind.itemsize:
        raise DataLoss(
            f"Token shard {_name(file)} has {size} bytes, not a multiple of {kind.itemsize}",
            reason="TOKEN_SHARD_DAMAGED",
            action="verify the token set and build it again if it is damaged",
        )
    if isinstance(file, StreamedFile):
        return StreamedTokens(file, kind)
    if isinstance(file, BoundedFile):
        return BoundedTokens(file, kind)
    if size == 0:
        return np.empty(0, dtype=kind)
    return np.memmap(file, dtype=kind, mode="r")


def _name(file: TokenFile) -> str:
    if isinstance(file, BoundedFile):
        return file.part.key
    return file.path.name if isinstance(file, StreamedFile) else file.name
