"""Group commit: write transactions that wait together share one commit.

A commit costs a flush of the disk, several times what the statements cost. Each function keeps its own savepoint, so
that one that refuses undoes nothing but itself; nobody hears of success before the shared commit is on the disk.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from longhaul_core.db.revisions import restore_revision, taken_revision

GROUP = 32
"""Most functions in one transaction, so that nobody waits long for the others."""


@dataclass(slots=True)
class Waiting:
    """A function that waits for its turn, and whoever waits for its result."""

    fn: Callable[[Session], Any]
    future: Future[Any] = field(default_factory=Future)
    result: Any = None
    error: Exception | None = None

    def settle(self) -> None:
        """Tell whoever waits."""
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


class WaitingWrites:
    """Functions that wait, in the order of their arrival."""

    def __init__(self) -> None:
        self._waiting: deque[Waiting] = deque()
        self._lock = threading.Lock()

    def add(self, fn: Callable[[Session], Any]) -> Future[Any]:
        """Queue a function."""
        waiting = Waiting(fn)
        self._waiting.append(waiting)
        return waiting.future

    def take(self) -> list[Waiting]:
        """Take the oldest; those that were given up meanwhile are left out."""
        taken: list[Waiting] = []
        with self._lock:
            while self._waiting and len(taken) < GROUP:
                waiting = self._waiting.popleft()
                if waiting.future.set_running_or_notify_cancel():
                    taken.append(waiting)
        return taken


def run_together(session: Session, group: list[Waiting]) -> None:
    """Run each function within a savepoint of the session's transaction.

    Raises:
        DBAPIError: The database failed one of them; nothing of the group may be committed.
    """
    for waiting in group:
        before = taken_revision(session)
        try:
            with session.begin_nested():
                waiting.result = waiting.fn(session)
        except DBAPIError:
            raise
        except Exception as error:
            restore_revision(session, before)
            waiting.error = error
