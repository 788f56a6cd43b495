"""Every duration of the Kubernetes client, with its reason."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds, unless the name says otherwise.

    Attributes:
        request: Whole time of one call; the API server itself gives up after 60 s, callers' deadlines are shorter.
        connect: Time for a TCP and TLS connection; longer means that the server is away.
        attempts: Tries of one call that may be repeated.
        retry_base: Pause before the second try; doubles, with jitter.
        retry_longest: A server that asks for a longer pause gets none: the caller is told instead.
        window: Length of one watch request. It bounds how long a half-open connection can look healthy, and so how old
            a cache can be without knowing it; client-go takes 5 to 10 minutes and notices that much later.
        window_slack: How much longer than its window a silent watch is waited for.
        backoff_base: Pause after the first failure of list or watch; doubles, with jitter.
        backoff_longest: Longest such pause: how late the end of an outage is noticed.
        blind: An outage of the watch this long makes the next view of node readiness suspect.
        settle: How long nodes that fell silent during such an outage are still taken for ready: the node controller
            loses sight of the kubelets in the same outage, and each kubelet reports every 10 s once it is over.
        explain_after: How long a pod may wait on its node before its events are read; pulling an image takes minutes
            and is not told apart from a volume that is missing.
        explain_again: Pause before they are read again.
        explain_round: Pause between two looks at which pods wait.
    """

    request: float = 15.0
    connect: float = 5.0
    attempts: int = 3
    retry_base: float = 0.2
    retry_longest: float = 5.0
    window: float = 30.0
    window_slack: float = 10.0
    backoff_base: float = 0.5
    backoff_longest: float = 15.0
    blind: float = 10.0
    settle: float = 60.0
    explain_after: float = 20.0
    explain_again: float = 60.0
    explain_round: float = 5.0


@dataclass(slots=True)
class Backoff:
    """Doubling pauses with jitter, so that many clients of one server do not return together."""

    base: float
    longest: float
    failures: int = 0

    def succeeded(self) -> None:
        """Begin anew."""
        self.failures = 0

    def next_pause(self, at_least: float = 0.0, *, first_free: bool = False) -> float:
        """Count a failure and return the pause after it; with `first_free` only `at_least` after the first in a row."""
        doubled = self.base * float(2 ** min(self.failures, 16))
        self.failures += 1
        if first_free and self.failures == 1:
            return at_least
        jitter = random.uniform(0.5, 1.0)  # noqa: S311 (no secret depends on it)
        return max(at_least, min(doubled, self.longest) * jitter)
