"""Repeats what may succeed later, with bounded back-off and a bounded end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from longhaul_core.errors import (
    Aborted,
    DeadlineExceeded,
    Internal,
    LonghaulError,
    ResourceExhausted,
    Unavailable,
)

Result = TypeVar("Result")

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 10.0
_TRANSIENT = (Unavailable, DeadlineExceeded, ResourceExhausted, Aborted, Internal, OSError)


class GaveUp(LonghaulError):  # noqa: N818
    """The deadline passed, or the program is ending, before the action succeeded."""

    default_reason = "GAVE_UP"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one piece of work may be repeated. ``delayed`` hears of each failure that is followed by another try."""

    deadline: float
    stop: threading.Event
    delayed: Callable[[Exception], None]

    def persist(self, action: Callable[[], Result]) -> Result:
        """Runs the action until it succeeds.

        Raises:
            GaveUp: after the deadline, or when told to stop.
            LonghaulError: an error that no repetition can heal.
        """
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return action()
            except _TRANSIENT as error:
                left = self.deadline - time.monotonic()
                if left <= 0:
                    raise GaveUp(f"gave up after repeated failures, the last: {error}") from error
                self.delayed(error)
                if self.stop.wait(min(pause, left)):
                    raise GaveUp(f"stopped while repeating after: {error}") from error
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
