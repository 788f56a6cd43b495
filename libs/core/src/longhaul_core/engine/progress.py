"""Progress from inside a task; a task that runs outside an engine reports to nobody."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Reporter = Callable[[dict[str, Any]], None]

_reporter: Reporter | None = None  # of the process, not of the context: threads of a task report too


def report(progress: dict[str, Any]) -> None:
    """Send a picklable dict to the `on_progress` of the task's `submit`."""
    reporter = _reporter
    if reporter is not None:
        reporter(progress)


@contextmanager
def reporting_to(reporter: Reporter) -> Iterator[None]:
    """Route `report` of this process, which runs one task at a time, to `reporter`."""
    global _reporter
    _reporter = reporter
    try:
        yield
    finally:
        _reporter = None
