"""Rows of one kind in memory, kept up to date by reading what changed since the last look.

A look at all mirrors costs one transaction, whatever the number of rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from longhaul_core.db import Database, ResourceRow, resources
from longhaul_core.db.session import Session
from longhaul_core.ids import ANY_PROJECT

T = TypeVar("T")
BATCH = 500
GIVE_WAY_EVERY = 8


class Mirror(Generic[T]):
    """Loaded rows by uid."""

    def __init__(self, kind: str, load: Callable[[ResourceRow], T]) -> None:
        self._kind = kind
        self._load = load
        self._revision = 0
        self._items: dict[str, tuple[int, T]] = {}

    @property
    def items(self) -> dict[str, T]:
        """What is held now, by uid."""
        return {uid: item for uid, (_, item) in self._items.items()}

    def put(self, row: ResourceRow) -> T:
        """Takes a row that was just written."""
        return self._take(row)

    def clear(self) -> None:
        """Forgets everything; the next refresh reads all rows again."""
        self._items.clear()
        self._revision = 0

    def changes(self, session: Session) -> list[ResourceRow]:
        """Rows that changed since the last look, a batch of them."""
        return resources.changes(session, self._kind, ANY_PROJECT, self._revision, BATCH)

    async def take_all(self, rows: list[ResourceRow]) -> bool:
        """Takes a batch; whether there may be more."""
        for number, row in enumerate(rows):
            await give_way(number)
            self._take(row)
            self._revision = max(self._revision, row.revision)
        return len(rows) >= BATCH

    def _take(self, row: ResourceRow) -> T:
        known = self._items.get(row.uid)
        if known is not None and known[0] == row.revision:  # what this controller wrote itself comes back once
            return known[1]
        item = self._load(row)
        if row.deleted:
            self._items.pop(row.uid, None)
        elif known is None or known[0] <= row.revision:
            self._items[row.uid] = (row.revision, item)
        return item


async def give_way(number: int) -> None:
    """Lets calls be served between the records of a long pass: counted, not timed, so that a pass can be replayed."""
    if number % GIVE_WAY_EVERY == GIVE_WAY_EVERY - 1:
        await asyncio.sleep(0)


async def refresh(db: Database, mirrors: Sequence[Mirror[Any]]) -> None:
    """Brings all mirrors up to date from one snapshot of the database; more are read only when a batch was full."""
    pending = list(mirrors)
    while pending:
        batches = await db.read(partial(_read_all, pending))
        pending = [mirror for mirror, rows in zip(pending, batches, strict=True) if await mirror.take_all(rows)]


def _read_all(mirrors: Sequence[Mirror[Any]], session: Session) -> list[list[ResourceRow]]:
    return [mirror.changes(session) for mirror in mirrors]
