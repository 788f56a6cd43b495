"""How often each piece of the pre-tokenizer stands in texts: all that training of byte-level BPE looks at.

Texts are cut in compiled code, as GPT-2's pattern cuts them (with digits together, or one by one), and pieces that came
before are only counted. Counts of parts of a corpus add up, so that parts can be counted side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from longhaul_core.compiled import compiled

from longhaul_corpus.domain.hashing import Hashes
from longhaul_corpus.domain.piece_cache import cut_text, look_up
from longhaul_corpus.domain.spec import TokenizerTraining

Integers = npt.NDArray[np.int64]

COUNTS_SCHEMA = pa.schema([("piece", pa.large_binary()), ("count", pa.int64())])
_FIRST_SLOTS = 1 << 16


def add_counts(parts: Sequence[pa.Table]) -> pa.Table:
    """Counts over all parts, each piece once."""
    together = pa.concat_tables([COUNTS_SCHEMA.empty_table(), *parts])
    added = together.group_by("piece", use_threads=False).aggregate([("count", "sum")])
    return pa.table([added["piece"], added["count_sum"]], schema=COUNTS_SCHEMA)


class PieceCounter:
    """Counts the pieces of texts; memory grows with the number of different pieces."""

    def __init__(self, training: TokenizerTraining) -> None:
        self._single_digits = training.digits == "individual"
        self._keys: Hashes = np.zeros(_FIRST_SLOTS, dtype=np.uint64)
        self._places: Integers = np.zeros(_FIRST_SLOTS, dtype=np.int64)
        self._counts: Integers = np.zeros(_FIRST_SLOTS // 2, dtype=np.int64)
        self._pieces: list[bytes] = []

    def add(self, texts: Iterable[str]) -> None:
        """Count the pieces of texts."""
        for text in texts:
            ends, hashes = cut_text(text, single_digits=self._single_digits)
            slots = look_up(hashes, self._keys)
            missing = np.flatnonzero(self._keys[slots] == 0)
            if len(missing):
                self._learn(text, ends, hashes, missing)
                slots = look_up(hashes, self._keys)
            _tally(slots, self._places, self._counts)

    def table(self) -> pa.Table:
        """The pieces as UTF-8 and how often each came, in the order in which they came first."""
        counts = self._counts[: len(self._pieces)]
        return pa.table([pa.array(self._pieces, pa.large_binary()), pa.array(counts)], schema=COUNTS_SCHEMA)

    def _learn(self, text: str, ends: Integers, hashes: Hashes, missing: Integers) -> None:
        new, first = np.unique(hashes[missing], return_index=True)
        places = len(self._pieces) + np.arange(len(new))
        for number in missing[first].tolist():
            start = int(ends[number - 1]) if number else 0
            self._pieces.append(text[start : int(ends[number])].encode("utf-8", "surrogatepass"))
        while len(self._pieces) > len(self._counts):
            self._grow()
        _insert(new, places, self._keys, self._places)

    def _grow(self) -> None:
        known = np.flatnonzero(self._keys)
        keys, places = np.zeros(2 * len(self._keys), dtype=np.uint64), np.zeros(2 * len(self._keys), dtype=np.int64)
        _insert(self._keys[known], self._places[known], keys, places)
        self._keys, self._places = keys, places
        self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])


@compiled
def _insert(hashes: Hashes, values: Integers, keys: Hashes, places: Integers) -> None:
    mask = np.uint64(len(keys) - 1)
    for number in range(len(hashes)):
        slot = (hashes[number] >> np.uint64(20)) & mask
        while keys[slot] != np.uint64(0):
            slot = (slot + np.uint64(1)) & mask
        keys[slot] = hashes[number]
        places[slot] = values[number]


@compiled
def _tally(slots: Integers, places: Integers, counts: Integers) -> None:
    for slot in slots:
        counts[places[slot]] += 1
