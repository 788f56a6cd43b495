"""Named points at which a test lets a process kill itself, as `kill -9` would, to prove what a crash there leaves.

A program names its points in an enum and calls `reach` at each. The setting arms them, for example
`commit.after-manifest` or, to die when it is reached the third time, `commit.after-manifest:3`; several are separated
by commas. Nothing is armed by default and an unarmed point costs one dictionary look-up.
"""

from __future__ import annotations

import os
import signal
from enum import StrEnum

from longhaul_core.errors import InvalidArgument


class Failpoints:
    """The armed points of one process, each with the number of times it may still be reached."""

    def __init__(self, armed: dict[str, int] | None = None) -> None:
        self._left = dict(armed or {})

    @classmethod
    def parse(cls, text: str, known: type[StrEnum]) -> Failpoints:
        """Read a setting.

        Raises:
            InvalidArgument: A point that the program does not have, or a count that is none.
        """
        armed = {}
        for entry in filter(None, (entry.strip() for entry in text.split(","))):
            name, _, count = entry.partition(":")
            if name not in set(known) or not (count or "1").isdigit() or count == "0":
                raise InvalidArgument(
                    f"{entry!r} is no failpoint",
                    reason="FAILPOINT_UNKNOWN",
                    violations=[("failpoints", f"known: {', '.join(known)}, each with an optional :COUNT")],
                )
            armed[name] = int(count or "1")
        return cls(armed)

    def reach(self, point: StrEnum) -> None:
        """End the process by SIGKILL if the point is armed and was reached often enough."""
        left = self._left.get(point)
        if left is None:
            return
        if left <= 1:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left[point] = left - 1
