"""Output of local pods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from longhaul_core.cluster.local.store import Store
from longhaul_core.errors import NotFound

PIECE_BYTES = 1 << 16
POLL_SECONDS = 0.1


async def read_log(
    store: Store, namespace: str, name: str, *, follow: bool, tail_lines: int | None
) -> AsyncIterator[bytes]:
    """Pieces of a pod's output. Raises `NotFound`."""
    stored = await asyncio.to_thread(store.load_pod, namespace, name)
    uid = stored.record.uid
    path: Path | None = None
    offset = 0
    while True:
        ended = stored.status.phase.terminal
        if path is None and stored.node is not None:
            path = store.layout.log(stored.node, namespace, name, uid)
            offset = 0 if tail_lines is None else await asyncio.to_thread(_tail_offset, path, tail_lines)
        while path is not None and (piece := await asyncio.to_thread(_read_piece, path, offset)):
            offset += len(piece)
            yield piece
        if ended or not follow:
            return
        await asyncio.sleep(POLL_SECONDS)
        try:
            stored = await asyncio.to_thread(store.load_pod, namespace, name)
        except NotFound:
            return
        if stored.record.uid != uid:
            return


def _read_piece(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(PIECE_BYTES)
    except FileNotFoundError:
        return b""


def _tail_offset(path: Path, lines: int) -> int:
    """Where the last `lines` lines start."""
    try:
        with path.open("rb") as file:
            position = file.seek(0, 2)
            tail = b""
            while position > 0 and tail.count(b"\n") <= lines:
                step = min(PIECE_BYTES, position)
                position = file.seek(position - step)
                tail = file.read(step) + tail
    except FileNotFoundError:
        return 0
    kept = tail.splitlines(keepends=True)[-lines:] if lines else []
    return position + len(tail) - sum(map(len, kept))
