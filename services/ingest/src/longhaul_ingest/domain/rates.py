"""How fast work goes, over the last seconds rather than since the start."""

from __future__ import annotations

from collections import deque

WINDOW_SECONDS = 15.0


class RateWindow:
    """Differences of a growing count over a sliding window of time."""

    def __init__(self, window_seconds: float = WINDOW_SECONDS) -> None:
        self._window = window_seconds
        self._points: deque[tuple[float, float]] = deque()

    def add(self, now: float, done: float) -> float:
        """Record how much is done at a monotonic time; returns units a second."""
        self._points.append((now, done))
        while len(self._points) > 2 and self._points[1][0] <= now - self._window:
            self._points.popleft()
        (first, before), (last, after) = self._points[0], self._points[-1]
        return max(after - before, 0.0) / (last - first) if last > first else 0.0
