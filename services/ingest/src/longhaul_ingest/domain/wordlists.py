"""The user's lists: text files with one entry a line."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from longhaul_core.errors import FailedPrecondition


@lru_cache(maxsize=32)
def read_list(path: str) -> tuple[str, ...]:
    """Entries of a list, in lower case; empty lines and those that begin with `#` are none.

    Raises:
        FailedPrecondition: the file cannot be read (FILTER_FILE_UNREADABLE).
    """
    return tuple(
        entry.lower()
        for line in read_file(path).decode("utf-8", "replace").splitlines()
        if (entry := line.strip()) and not entry.startswith("#")
    )


def read_file(path: str) -> bytes:
    """Bytes of a file that a filter names. Raises FailedPrecondition (FILTER_FILE_UNREADABLE)."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FailedPrecondition(
            f"The filter's file {path} cannot be read: {error.strerror or error}.",
            reason="FILTER_FILE_UNREADABLE",
            metadata={"path": path},
            action="Correct the path in the recipe, or put the file where every worker can read it.",
        ) from error
