"""Rows of one kind in memory, kept up to date by reading what changed since the last look.

A look costs one query, whatever the number of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from longhaul_core.db import Database, ResourceRow, resources
from longhaul_core.ids import ANY_PROJECT
from sqlalchemy.orm import Session

T = TypeVar("T")
BATCH = 500


class Mirror(Generic[T]):
    """Loaded rows by uid."""

    def __init__(self, db: Database, kind: str, load: Callable[[ResourceRow], T]) -> None:
        self._db = db
        self._kind = kind
        self._load = load
        self._revision = 0
        self._items: dict[str, tuple[int, T]] = {}

    @property
    def items(self) -> dict[str, T]:
        """What is held now, by uid."""
        return {uid: item for uid, (_, item) in self._items.items()}

    async def refresh(self) -> None:
        """Reads what changed."""
        while True:
            rows = await self._db.read(self._changes)
            for row in rows:
                self._take(row)
                self._revision = max(self._revision, row.revision)
            if len(rows) < BATCH:
                return

    def put(self, row: ResourceRow) -> T:
        """Takes a row that was just written."""
        return self._take(row)

    def clear(self) -> None:
        """Forgets everything; the next refresh reads all rows again."""
        self._items.clear()
        self._revision = 0

    def _changes(self, session: Session) -> list[ResourceRow]:
        return resources.changes(session, self._kind, ANY_PROJECT, self._revision, BATCH)

    def _take(self, row: ResourceRow) -> T:
        item = self._load(row)
        known = self._items.get(row.uid)
        if row.deleted:
            self._items.pop(row.uid, None)
        elif known is None or known[0] <= row.revision:
            self._items[row.uid] = (row.revision, item)
        return item
