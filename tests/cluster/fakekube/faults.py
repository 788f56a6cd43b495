"""Faults that the fake API plays, and the record of what it was asked."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Fault:
    """Answers `times` matching requests with `status`, or cuts their connection where `status` is 0.

    With `executed` the request takes effect first and only its answer is lost; the first `after` are left alone.
    """

    verb: str
    resource: str
    status: int = 0
    message: str = "fault"
    reason: str = ""
    retry_after: int | None = None
    times: int = 1
    executed: bool = False
    after: int = 0
    fired: int = 0

    def takes(self, verb: str, resource: str) -> bool:
        """Whether this request is hit; counts it."""
        if self.fired >= self.times or (verb, resource) != (self.verb, self.resource):
            return False
        if self.after:
            self.after -= 1
            return False
        self.fired += 1
        return True


@dataclass(slots=True)
class Ledger:
    """Every request, by verb and resource."""

    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    denied: set[tuple[str, str]] = field(default_factory=set)

    def fault(self, verb: str, resource: str) -> Fault | None:
        """The fault that hits this request."""
        return next((fault for fault in self.faults if fault.takes(verb, resource)), None)

    def total(self) -> int:
        """Requests of any kind."""
        return self.calls.total()
