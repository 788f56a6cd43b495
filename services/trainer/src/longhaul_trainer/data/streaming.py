"""Token shards in an object store, fetched block by block as they are read and kept in a cache on this machine.

A run begins with the first blocks instead of the whole token set. The cache is a file with holes beside a map of the
blocks that are there, which a restarted worker goes on with. The whole file's digest is checked once its last block is
there: a block that came with other bytes is found before the first epoch ends.
"""

from __future__ import annotations

import fcntl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from longhaul_core.digests import hash_file
from longhaul_core.errors import DataLoss
from longhaul_core.manifests import Part
from longhaul_core.objects import ObjectStore
from numpy.typing import NDArray

from longhaul_trainer.data.bounded_cache import BoundedCache

BLOCK_BYTES = 8 << 20
_MISSING, _PRESENT = b"\0", b"\1"


class StreamedFile:
    """A part of the token set of which as much is here as was read so far."""

    def __init__(self, store: ObjectStore, part: Part, cache: Path, block_bytes: int = BLOCK_BYTES) -> None:
        self._store = store
        self._part = part
        self._block_bytes = block_bytes
        self._lock = threading.Lock()
        cache.mkdir(parents=True, exist_ok=True)
        self.path = cache / f"{part.digest}.streamed"
        self._map_path = cache / f"{part.digest}.blocks"
        self._present = self._open()

    @property
    def size(self) -> int:
        """Bytes of the whole part."""
        return self._part.size

    @property
    def fetched_blocks(self) -> int:
        """Blocks that are here."""
        return self._present.count(_PRESENT)

    def require(self, start: int, end: int) -> None:
        """Fetch what is missing of the bytes in [start, end).

        Raises:
            DataLoss: the whole file, once complete, is not what the manifest says (TOKEN_SHARD_DAMAGED).
            LonghaulError: whatever the store raises.
        """
        blocks = range(start // self._block_bytes, -(-end // self._block_bytes))
        if all(self._present[block] for block in blocks):
            return
        with self._lock:
            self._present = bytearray(self._map_path.read_bytes())  # other workers of this machine fetch too
            for block in blocks:
                if not self._present[block]:
                    self._fetch(block)

    def _open(self) -> bytearray:
        blocks = -(-self._part.size // self._block_bytes)
        with self._map_path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # so that none empties what another has begun to fill
            return self._open_locked(blocks)

    def _open_locked(self, blocks: int) -> bytearray:
        if self.path.exists() and self._map_path.exists() and self._map_path.stat().st_size == blocks:
            return bytearray(self._map_path.read_bytes())
        with self.path.open("wb") as file:
            file.truncate(self._part.size)
        self._map_path.write_bytes(_MISSING * blocks)
        return bytearray(blocks)

    def _fetch(self, block: int) -> None:
        start = block * self._block_bytes
        length = min(self._block_bytes, self._part.size - start)
        content = self._store.get_range(self._part.key, start, length)
        if len(content) != length:
            raise self._damaged(f"gave {len(content)} of {length} bytes at {start}")
        with self.path.open("r+b") as file:
            file.seek(start)
            file.write(content)
        with self._map_path.open("r+b") as file:  # after the bytes: a worker killed in between fetches them again
            file.seek(block)
            file.write(_PRESENT)
        self._present[block] = 1
        if all(self._present) and hash_file(self.path) != self._part.digest:
            self.path.unlink()
            self._map_path.unlink()
            raise self._damaged("does not match its digest")

    def _damaged(self, problem: str) -> DataLoss:
        return DataLoss(
            f"Token set part {self._part.key} {problem}",
            reason="TOKEN_SHARD_DAMAGED",
            metadata={"key": self._part.key},
            action="verify the token set and build it again if it is damaged",
        )


class StreamedTokens:
    """The tokens of a streamed file, by slices of consecutive ones."""

    def __init__(self, file: StreamedFile, dtype: np.dtype[Any]) -> None:
        self._file = file
        self._itemsize = dtype.itemsize
        self._tokens: NDArray[Any] = np.memmap(file.path, dtype=dtype, mode="r") if file.size else np.empty(0, dtype)

    @property
    def size(self) -> int:
        """Tokens of the whole shard."""
        return int(self._tokens.size)

    def __getitem__(self, wanted: slice) -> NDArray[Any]:
        start, stop, _ = wanted.indices(self.size)
        if stop > start:
            self._file.require(start * self._itemsize, stop * self._itemsize)
        return self._tokens[start:stop]


@dataclass(frozen=True, slots=True)
class BoundedFile:
    """A part of the token set behind a bounded cache."""

    store: ObjectStore
    part: Part
    cache: BoundedCache

    @property
    def size(self) -> int:
        """Bytes of the whole part."""
        return self.part.size


class BoundedTokens:
    """The tokens of such a part, by slices of consecutive ones."""

    def __init__(self, file: BoundedFile, dtype: np.dtype[Any]) -> None:
        self._file = file
        self._dtype = dtype

    @property
    def size(self) -> int:
        """Tokens of the whole shard."""
        return self._file.size // self._dtype.itemsize

    def __getitem__(self, wanted: slice) -> NDArray[Any]:
        start, stop, _ = wanted.indices(self.size)
        width = self._dtype.itemsize
        if stop <= start:
            return np.empty(0, self._dtype)
        content = self._file.cache.read(self._file.store, self._file.part, start * width, stop * width)
        return np.frombuffer(content, self._dtype)
