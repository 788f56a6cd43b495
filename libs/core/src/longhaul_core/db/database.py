"""A database as the services use it: functions over a session, each one transaction, off the event loop."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import URL, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from longhaul_core.db.engines import open_engine, parse_database_url, reading, writing
from longhaul_core.db.failures import display_url, is_conflict, translate
from longhaul_core.db.feed import RevisionFeed
from longhaul_core.db.grouping import Waiting, WaitingWrites, run_together
from longhaul_core.db.migrations import is_current, migrate
from longhaul_core.db.revisions import current_revision, taken_revision
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
        self._readers = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="db-read")
        self._writers = ThreadPoolExecutor(writers, thread_name_prefix="db-write")
        self._observer: Observer = _unobserved
        self._waiting = WaitingWrites()
        self._log = WriteAheadLog(engine, self._readers.submit) if self.is_sqlite else None
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
        """Run one write transaction and return what `fn` returned, after the commit.

        On SQLite the functions that wait while another commits share the next commit (see `grouping.py`).
        """
        if not self.is_sqlite:
            return await asyncio.get_running_loop().run_in_executor(self._writers, self.run_sync, fn)
        future = self._waiting.add(fn)
        self._writers.submit(self._write_waiting)
        result: T = await asyncio.wrap_future(future)
        return result

    async def read(self, fn: Callable[[Session], T]) -> T:
        """Run one read transaction over one snapshot."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read_sync, fn)

    def run_sync(self, fn: Callable[[Session], T]) -> T:
        """Run one write transaction on this thread; run again where it lost against another.

        Raises:
            LonghaulError: What `fn` raised (nothing is written), or what befell the database.
        """
        revision: int | None = None

        def transact() -> T:
            nonlocal revision
            with Session(self._writing, expire_on_commit=False) as session:
                with session.begin():
                    result = fn(session)
                revision = taken_revision(session)
            return result

        result = self._attempt("write", transact)
        self._wrote(revision)
        return result

    def read_sync(self, fn: Callable[[Session], T]) -> T:
        """Run one read transaction on this thread."""

        def transact() -> T:
            with Session(self._reading, expire_on_commit=False) as session, session.begin():
                return fn(session)

        return self._attempt("read", transact)

    def observed_by(self, observer: Observer) -> None:
        """Tell an observer of each transaction: its kind, how it ended, and the seconds it took."""
        self._observer = observer

    def close(self) -> None:
        """End watches, wait for transactions in progress, and close the connections."""
        self.feed.close()
        self._readers.shutdown(wait=True)
        self._writers.shutdown(wait=True)
        self._engine.dispose()

    async def _current_revision(self) -> int:
        return await self.read(current_revision)

    def _write_waiting(self) -> None:
        """Run what waits: alone, or together in one transaction; one by one where that fails."""
        group = self._waiting.take()
        shared = len(group) > 1 and self._share(group)
        for waiting in group:
            if not shared:
                waiting.error = None
                try:
                    waiting.result = self.run_sync(waiting.fn)
                except Exception as error:
                    waiting.error = error
            waiting.settle()

    def _share(self, group: list[Waiting]) -> bool:
        started = time.perf_counter()
        try:
            with Session(self._writing, expire_on_commit=False) as session:
                with session.begin():
                    run_together(session, group)
                revision = taken_revision(session)
        except (DBAPIError, PoolTimeout):
            return False
        for waiting in group:
            self._observer("write", _outcome(waiting.error), time.perf_counter() - started)
        self._wrote(revision)
        return True

    def _wrote(self, revision: int | None) -> None:
        if revision is not None:
            self.feed.notify(revision)
        if self._log is not None:
            self._log.wrote()

    def _attempt(self, kind: str, transact: Callable[[], T]) -> T:
        started, outcome = time.perf_counter(), "failed"
        try:
            result = self._repeat(transact)
            outcome = "ok"
            return result
        except LonghaulError as error:
            outcome = _outcome(error)
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


def _outcome(error: Exception | None) -> str:
    if error is None:
        return "ok"
    return "refused" if isinstance(error, LonghaulError) and error.code not in _FAULTS else "failed"


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
