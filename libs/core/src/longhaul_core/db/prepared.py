"""Statements that every call takes, made ready once.

SQLAlchemy looks a statement up in its cache, builds contexts around it and wraps what it returns; on SQLite, where the
statement itself takes 5 us, that is most of the time (a row by its key: 48 us against 15 us). There a statement goes to
the driver with the parameters that it was compiled for, and its values through the same types. PostgreSQL's answer
travels for longer than SQLAlchemy thinks, so there nothing is gained.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Delete, Dialect, Insert, Select, Update
from sqlalchemy.exc import DBAPIError

from longhaul_core.db.session import Session

Statement = Select[Any] | Insert | Update | Delete
_Convert = Callable[[Any], Any]


class Prepared:
    """A statement of plain columns and named parameters, all of which are given with each execution."""

    def __init__(self, statement: Statement) -> None:
        self._statement = statement
        self._ready: WeakKeyDictionary[Dialect, _Ready] = WeakKeyDictionary()

    def rows(self, session: Session, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """Carry it out and return the rows that it gives, none where it returns none."""
        dialect = session.dialect
        if dialect.name != "sqlite":
            result: Any = session.execute(self._statement, parameters)
            return result.all() if result.returns_rows else ()
        ready = self._ready.get(dialect)
        if ready is None:
            ready = self._ready[dialect] = _Ready(self._statement, dialect)
        return ready.rows(session, parameters)

    def first(self, session: Session, parameters: Mapping[str, Any]) -> Sequence[Any] | None:
        """Carry out one that gives one row at most, and return it."""
        found = self.rows(session, parameters)
        return found[0] if found else None


class _Ready:
    """A statement as SQLite's driver takes it."""

    def __init__(self, statement: Statement, dialect: Dialect) -> None:
        compiled: Any = statement.compile(dialect=dialect)
        selected = statement.selected_columns if isinstance(statement, Select) else None
        returned: Any = selected or compiled.effective_returning or ()
        self._text = str(compiled)
        self._dialect = dialect
        self._constants: dict[str, Any] = {}
        self._binds: list[tuple[str, _Convert | None]] = []
        for name in compiled.positiontup:
            bind = compiled.binds[name]
            self._binds.append((name, bind.type.dialect_impl(dialect).bind_processor(dialect)))
            if not bind.required:
                self._constants[name] = bind.value
        converts = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in returned]
        self._converts = [(index, convert) for index, convert in enumerate(converts) if convert is not None]

    def rows(self, session: Session, parameters: Mapping[str, Any]) -> list[list[Any]]:
        """Carry it out in the session's transaction."""
        given = {**self._constants, **parameters} if self._constants else parameters
        values = [given[name] if bind is None else bind(given[name]) for name, bind in self._binds]
        driver = session.driver
        try:
            found = driver.execute(self._text, values).fetchall()
        except sqlite3.Error as error:
            raise DBAPIError.instance(self._text, None, error, sqlite3.Error, dialect=self._dialect) from error
        return [self._converted(row) for row in found]

    def _converted(self, row: Sequence[Any]) -> list[Any]:
        converted = list(row)
        for index, convert in self._converts:
            converted[index] = convert(converted[index])
        return converted
