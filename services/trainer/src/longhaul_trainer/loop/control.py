"""What the agent and the operating system ask of a worker while it trains."""

from __future__ import annotations

import threading


class Control:
    """Requests, set by signals and the agent's channel, read once a step."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._checkpoint = threading.Event()

    def request_stop(self) -> None:
        """Write a checkpoint at the next step, then end."""
        self._stop.set()

    def request_checkpoint(self) -> None:
        """Write a checkpoint at the next step and go on."""
        self._checkpoint.set()

    @property
    def stop_requested(self) -> bool:
        """Whether the worker is to end."""
        return self._stop.is_set()

    @property
    def checkpoint_requested(self) -> bool:
        """Whether a checkpoint is wanted out of turn."""
        return self._checkpoint.is_set()

    def checkpoint_begun(self) -> None:
        """Forgets the wish for a checkpoint."""
        self._checkpoint.clear()
