"""A database as the services use it: functions over a session, each one transaction, off the event loop."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from sqlalchemy import URL, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from longhaul_core.db.engines import open_engine, parse_database_url, reading, writing
from longhaul_core.db.failures import display_url, is_conflict, translate
from longhaul_core.db.feed import RevisionFeed
from longhaul_core.db.grouping import Grouping, Outcome
from longhaul_core.db.migrations import is_current, migrate
from longhaul_core.db.revisions import current_revision, taken_revision
from longhaul_core.db.session import Session
from longhaul_core.db.write_ahead import WriteAheadLog
from longhaul_core.errors import ErrorCode, FailedPrecondition, LonghaulError, Unavailable

T = TypeVar("T")

READ_THREADS = 4
WRITE_THREADS = 4
"""On PostgreSQL; SQLite has one writer at a time, so one thread keeps writers in order and off its busy loop."""

ATTEMPTS = 8
"""How often a transaction is run before its conflicts are reported."""
_FIRST_DELAY_SECONDS = 0.01

_FAULTS = frozenset({ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL, ErrorCode.RESOURCE_EXHAUSTED, ErrorCode.DATA_LOSS})
"""What the database did, not what the transaction wanted."""

Transaction = Callable[[Session], Any]
Observer = Callable[[str, str, float], None]


def _unobserved(kind: str, outcome: str, seconds: float) -> None:
    """Nobody wants to know."""


class Database:
    """A handle on a database. `fn` may run more than once, so it must do nothing but talk to its session."""

    def __init__(self, engine: Engine, url: URL) -> None:
        self._engine = engine
        self._url = url
        self._reading = reading(engine)
        self._writing = writing(engine)
        writers = 1 if self.is_sqlite else WRITE_THREADS
        self._reads = Grouping[Transaction](READ_THREADS, "db-read", self._read_together)
        self._writes = Grouping[Transaction](writers, "db-write", self._write_together)
        self._observer: Observer = _unobserved
        self._log = WriteAheadLog(engine, self._reads.beside) if self.is_sqlite else None
        self.feed = RevisionFeed(self._current_revision)

    @classmethod
    def open(cls, url: str, *, migrated: bool | None = None) -> Database:
        """Open a database by its URL; an SQLite file is checked, and made or migrated where needed.

        Args:
            url: `sqlite:///…` or `postgresql://…`.
            migrated: Migrate the schema now; by default an SQLite file is and a PostgreSQL database is not, because
                there `python -m longhaul_core.db.migrate` does it before a rollout.

        Raises:
            FailedPrecondition: The file is damaged, or the schema is older or newer than this program.
            ResourceExhausted: The disk is full.
            Unavailable: The server does not answer.
        """
        parsed = parse_database_url(url)
        engine = open_engine(parsed)
        try:
            with reading(engine).connect() as connection:
                current = is_current(connection)
            if not current:
                _migrate_or_refuse(engine, parsed, migrated)
        except DBAPIError as error:
            engine.dispose()
            raise translate(error, parsed) from error
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, parsed)

    @property
    def is_sqlite(self) -> bool:
        """Whether this is the embedded database."""
        return self._engine.dialect.name == "sqlite"

    @property
    def url(self) -> str:
        """The URL without its password."""
        return display_url(self._url)

    async def run(self, fn: Callable[[Session], T]) -> T:
        """Run a write and return what `fn` returned, after the commit.

        Writes that wait together share a transaction; when one of them fails, each is run again in its own.
        """
        return cast(T, await self._writes.run(fn))

    async def read(self, fn: Callable[[Session], T]) -> T:
        """Run a read over one snapshot, which reads that wait together share."""
        return cast(T, await self._reads.run(fn))

    def run_sync(self, fn: Callable[[Session], T]) -> T:
        """Run one write transaction on this thread; run again where it lost against another.

        Raises:
            LonghaulError: What `fn` raised (nothing is written), or what befell the database.
        """
        return self._attempt("write", lambda: self._write(fn))

    def read_sync(self, fn: Callable[[Session], T]) -> T:
        """Run one read transaction on this thread."""
        return self._attempt("read", lambda: self._read(fn))

    def observed_by(self, observer: Observer) -> None:
        """Tell an observer of each transaction: its kind, how it ended, and the seconds it took."""
        self._observer = observer

    def close(self) -> None:
        """End watches, wait for transactions in progress, and close the connections."""
        self.feed.close()
        self._reads.close()
        self._writes.close()
        self._engine.dispose()

    async def _current_revision(self) -> int:
        return await self.read(current_revision)

    def _read(self, fn: Callable[[Session], T]) -> T:
        with self._reading.begin() as connection:
            return fn(Session(connection))

    def _write(self, fn: Callable[[Session], T]) -> T:
        with self._writing.begin() as connection:
            session = Session(connection)
            result = fn(session)
        revision = taken_revision(session)
        if revision is not None:
            self.feed.notify(revision)
        if self._log is not None:
            self._log.wrote()
        return result

    def _read_together(self, fns: Sequence[Transaction]) -> list[Outcome]:
        """One snapshot for all; what one of them does not find does not concern the others."""
        return self._together("read", fns, self._read, _own_error, self.read_sync)

    def _write_together(self, fns: Sequence[Transaction]) -> list[Outcome]:
        """One transaction for all, or none of it: a write that failed may have left half of itself behind."""
        return self._together("write", fns, self._write, _no_error, self.run_sync)

    def _together(
        self,
        kind: str,
        fns: Sequence[Transaction],
        transact: Callable[[Callable[[Session], list[Outcome]]], list[Outcome]],
        each: Callable[[Transaction, Session], Outcome],
        alone: Callable[[Transaction], object],
    ) -> list[Outcome]:
        started, finished = time.perf_counter(), False

        def carry_out(session: Session) -> list[Outcome]:
            nonlocal finished
            outcomes = [each(fn, session) for fn in fns]
            finished = True
            return outcomes

        if len(fns) == 1:
            return [_alone(alone, fns[0])]
        try:
            outcomes = transact(carry_out)
        except Exception as error:
            if finished and not (isinstance(error, DBAPIError) and is_conflict(error)):
                # It went wrong over the commit, which may have been made: to write again could write twice.
                known = translate(error, self._url) if isinstance(error, DBAPIError) else error
                outcomes = [Outcome(error=known)] * len(fns)
            else:
                # Nothing was written; alone, each finds out whether it was its own fault.
                return [_alone(alone, fn) for fn in fns]
        seconds = time.perf_counter() - started
        for outcome in outcomes:
            self._observer(kind, _word(outcome.error), seconds)
        return outcomes

    def _attempt(self, kind: str, transact: Callable[[], T]) -> T:
        started, outcome = time.perf_counter(), "failed"
        try:
            result = self._repeat(transact)
            outcome = "ok"
            return result
        except LonghaulError as error:
            outcome = _word(error)
            raise
        finally:
            self._observer(kind, outcome, time.perf_counter() - started)

    def _repeat(self, transact: Callable[[], T]) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return transact()
            except DBAPIError as error:
                if attempt == ATTEMPTS or not is_conflict(error):
                    raise translate(error, self._url) from error
            except PoolTimeout as error:
                raise Unavailable(f"all connections to {self.url} are in use", reason="DATABASE_BUSY") from error
            time.sleep(_FIRST_DELAY_SECONDS * 2**attempt * random.random())  # noqa: S311 - spreads retries
        raise AssertionError("unreachable: the last attempt returns or raises")


def _word(error: BaseException | None) -> str:
    if error is None:
        return "ok"
    return "refused" if isinstance(error, LonghaulError) and error.code not in _FAULTS else "failed"


def _no_error(fn: Transaction, session: Session) -> Outcome:
    return Outcome(fn(session))


def _own_error(fn: Transaction, session: Session) -> Outcome:
    try:
        return Outcome(fn(session))
    except LonghaulError as error:
        return Outcome(error=error)


def _alone(run: Callable[[Transaction], object], fn: Transaction) -> Outcome:
    try:
        return Outcome(run(fn))
    except BaseException as error:
        return Outcome(error=error)


def _migrate_or_refuse(engine: Engine, url: URL, wanted: bool | None) -> None:
    if wanted is None:
        wanted = engine.dialect.name == "sqlite"
    if not wanted:
        raise FailedPrecondition(
            f"the schema of {display_url(url)} is older than this program",
            reason="SCHEMA_BEHIND",
            action="run: python -m longhaul_core.db.migrate",
        )
    migrate(engine)
