"""A transaction in progress, as the functions that read and write see it.

A Core connection and no more: SQLAlchemy's own session tracks mapped objects, of which there are none here, costs as
much CPU a transaction as reading ten rows by their keys, and its import a seventh of a service's start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, CursorResult, Dialect, Executable


class Session:
    """One transaction; `info` is where modules note what they did in it."""

    __slots__ = ("_connection", "info")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.info: dict[str, Any] = {}

    def execute(
        self, statement: Executable, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    ) -> CursorResult[*tuple[Any, ...]]:
        """Carry out a statement; with a sequence of parameters, once for each, and it returns no rows."""
        return self._connection.execute(statement, parameters)

    @property
    def dialect(self) -> Dialect:
        """What kind of database this is."""
        return self._connection.dialect

    @property
    def driver(self) -> Any:
        """The driver's own connection, for statements that are made ready for it."""
        return self._connection.connection.driver_connection
