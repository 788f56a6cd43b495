"""Turns what a database driver raises into the errors of this system, in one place."""

from __future__ import annotations

import shutil
from pathlib import Path

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError

from longhaul_core.errors import FailedPrecondition, Internal, LonghaulError, ResourceExhausted, Unavailable

_DAMAGED = ("malformed", "not a database", "file is encrypted")
_UNUSABLE = ("disk is full", "unable to open", "readonly", "disk I/O error")
_RETRIED_SQLSTATES = {"40001", "40P01"}
"""Serialization failure and deadlock: the transaction did nothing and may be run again."""
_STALLED_SQLSTATE = "25P03"
"""This process was paused in the middle of a transaction, and the server has rolled it back."""
_DISK_FULL_SQLSTATE = "53100"
_NEARLY_FULL_BYTES = 1 << 20


def is_conflict(error: DBAPIError) -> bool:
    """Tell whether the same transaction may succeed when it is run again."""
    text = str(error.orig)
    return _sqlstate(error) in _RETRIED_SQLSTATES or "database is locked" in text or "database table is locked" in text


def translate(error: DBAPIError, url: URL) -> LonghaulError:
    """Return the error that a caller can act on; `url` says which database it was."""
    if url.get_backend_name() == "sqlite":
        return _translate_sqlite(error, Path(url.database or ""))
    if _sqlstate(error) == _DISK_FULL_SQLSTATE:
        return ResourceExhausted(
            f"the database server's disk is full: {error.orig}",
            reason="DISK_FULL",
            action="free space on the database server, then try again",
        )
    if is_conflict(error) or error.connection_invalidated or _is_connection_failure(error):
        return Unavailable(
            f"the database {display_url(url)} does not answer: {_first_line(error)}",
            reason="DATABASE_UNAVAILABLE",
            action="see that the database server runs and that LONGHAUL_DATABASE_URL names it",
        )
    return Internal(f"database error: {_first_line(error)}", reason="DATABASE_ERROR")


def damaged(path: Path, detail: str) -> FailedPrecondition:
    """Return the error of an SQLite file that cannot be trusted any more."""
    return FailedPrecondition(
        f"the database file {path} is damaged: {detail}",
        reason="DATABASE_DAMAGED",
        metadata={"path": str(path), "detail": detail[:300]},
        action=(
            f"move {path} away (with its -wal and -shm files) and start again, or restore it from a backup, or save "
            f"what is left with: sqlite3 {path} .recover"
        ),
    )


def unusable(path: Path, detail: str) -> LonghaulError:
    """Return the error of an SQLite file that cannot be opened or written: its disk is full, or something else."""
    free_bytes = _free_bytes(path)
    if free_bytes is not None and ("is full" in detail or free_bytes < _NEARLY_FULL_BYTES):
        return ResourceExhausted(
            f"no space left for the database {path} ({free_bytes} bytes free)",
            reason="DISK_FULL",
            metadata={"path": str(path), "free_bytes": str(free_bytes)},
            action="free space on this disk, then try again; what was committed is kept",
        )
    return FailedPrecondition(
        f"the database {path} cannot be used: {detail}",
        reason="DATABASE_UNUSABLE",
        metadata={"path": str(path)},
        action="see that this user may write the file and its folder, within the quota, and that the disk is sound",
    )


def display_url(url: URL) -> str:
    """Write a URL without its password."""
    return url.render_as_string(hide_password=True)


def _translate_sqlite(error: DBAPIError, path: Path) -> LonghaulError:
    text = _first_line(error)
    if any(mark in text for mark in _DAMAGED):
        return damaged(path, text)
    if is_conflict(error):
        return Unavailable(
            f"the database {path} is held by another process",
            reason="DATABASE_BUSY",
            action="see whether another program has the file open",
        )
    if any(mark in text for mark in _UNUSABLE):
        return unusable(path, text)
    return Internal(f"database error in {path}: {text}", reason="DATABASE_ERROR")


def _is_connection_failure(error: DBAPIError) -> bool:
    state = _sqlstate(error)
    return (
        (not state and type(error.orig).__name__ == "OperationalError")
        or state[:2] in {"08", "57"}
        or state == _STALLED_SQLSTATE
    )


def _sqlstate(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


def _first_line(error: DBAPIError) -> str:
    return (str(error.orig).strip().splitlines() or [""])[0]


def _free_bytes(path: Path) -> int | None:
    try:
        return shutil.disk_usage(path.parent).free
    except OSError:
        return None
