"""Blocks of token shards on this machine within a bound: the least recently read ones go.

Each block is a file of its own, which gets its name when it is whole. A reader opens it and reads: that another worker
removes it meanwhile does not matter, since the open file stays. So no locks are needed between workers, and one that is
killed leaves at most a file without a name. A bound smaller than the token set costs fetches, since sequences are read
in random order; blocks are smaller than those of a cache without bound, so that fewer bytes come for each.
"""

from __future__ import annotations

import os
import threading
import uuid
from contextlib import suppress
from pathlib import Path

from longhaul_core.errors import DataLoss, InvalidArgument
from longhaul_core.manifests import Part
from longhaul_core.objects import ObjectStore

BLOCK_BYTES = 1 << 20
LEAST_BLOCKS = 8
_SCANS_PER_BOUND = 16
"""The folder is looked through after each sixteenth of the bound was fetched, and emptied by as much below it."""


class BoundedCache:
    """Keeps at most `maximum_bytes` in `folder`, beyond one sixteenth for each further worker that fetches."""

    def __init__(self, folder: Path, maximum_bytes: int, block_bytes: int = BLOCK_BYTES) -> None:
        if maximum_bytes < LEAST_BLOCKS * block_bytes:
            raise InvalidArgument(
                f"A cache of {maximum_bytes} bytes is too small",
                violations=[("data.cache_bytes", f"at least {LEAST_BLOCKS * block_bytes}, or 0 for no bound")],
            )
        self._folder = folder
        self._maximum_bytes = maximum_bytes
        self._slack = max(maximum_bytes // _SCANS_PER_BOUND, block_bytes)
        self._fetched_bytes = self._slack  # look through the folder before the first block comes
        self._lock = threading.Lock()
        self.block_bytes = block_bytes
        folder.mkdir(parents=True, exist_ok=True)

    def read(self, store: ObjectStore, part: Part, start: int, end: int) -> bytes:
        """Bytes [start, end) of a part.

        Raises:
            DataLoss: the store gives fewer bytes than the manifest says (TOKEN_SHARD_DAMAGED).
            LonghaulError: whatever the store raises.
        """
        pieces = []
        for number in range(start // self.block_bytes, -(-end // self.block_bytes)):
            begin = number * self.block_bytes
            first, last = max(start - begin, 0), min(end - begin, self.block_bytes)
            pieces.append(self._read_block(store, part, number, first, last))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_block(self, store: ObjectStore, part: Part, number: int, first: int, last: int) -> bytes:
        path = self._folder / f"{part.digest}-{number}.block"
        try:
            with path.open("rb", buffering=0) as file:
                os.utime(file.fileno())
                return os.pread(file.fileno(), last - first, first)
        except FileNotFoundError:
            return self._fetch(store, part, number, path)[first:last]

    def _fetch(self, store: ObjectStore, part: Part, number: int, path: Path) -> bytes:
        start = number * self.block_bytes
        length = min(self.block_bytes, part.size - start)
        content = store.get_range(part.key, start, length)
        if len(content) != length:
            raise DataLoss(
                f"Token set part {part.key} gave {len(content)} of {length} bytes at {start}",
                reason="TOKEN_SHARD_DAMAGED",
                metadata={"key": part.key},
                action="verify the token set and build it again if it is damaged",
            )
        self._make_room(length)
        nameless = path.with_name(f"{uuid.uuid4().hex}.partial")
        nameless.write_bytes(content)
        nameless.replace(path)
        return content

    def _make_room(self, length: int) -> None:
        with self._lock:
            self._fetched_bytes += length
            if self._fetched_bytes < self._slack:
                return
            self._fetched_bytes = length
            self._evict(self._maximum_bytes - self._slack - length)

    def _evict(self, room: int) -> None:
        """Remove the files that were read longest ago until the rest takes no more than `room` bytes."""
        found = []
        for entry in os.scandir(self._folder):
            with suppress(FileNotFoundError):
                status = entry.stat()
                found.append((status.st_mtime_ns, status.st_size, entry.path))
        kept = 0
        for _, size, path in sorted(found, reverse=True):
            kept += size
            if kept > room:
                Path(path).unlink(missing_ok=True)
