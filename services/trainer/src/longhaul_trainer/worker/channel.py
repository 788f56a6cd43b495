"""The worker's end of the socket pair to its agent."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping

from pydantic import BaseModel

from longhaul_trainer.checkpoint.saver import Saved
from longhaul_trainer.wire import (
    AGENT_MESSAGE,
    AgentMessage,
    Committed,
    Event,
    Failed,
    Finished,
    Phase,
    PhaseChange,
    StepRow,
)

_READ_BYTES = 1 << 16
_MOST_DESCRIPTORS = 4


class Channel:
    """Sends news to the agent and receives its messages. Any thread may send."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._lock = threading.Lock()
        self._pending = b""
        self._descriptors: list[int] = []

    def receive(self) -> AgentMessage | None:
        """Waits for the agent's next message; None when the agent is gone."""
        while b"\n" not in self._pending:
            data, descriptors, _, _ = socket.recv_fds(self._socket, _READ_BYTES, _MOST_DESCRIPTORS)
            self._descriptors += descriptors
            if not data:
                return None
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return AGENT_MESSAGE.validate_json(line)

    def take_descriptor(self) -> int | None:
        """The socket that came with the last message, if one did."""
        return self._descriptors.pop() if self._descriptors else None

    def listen(self, handle: Callable[[AgentMessage | None], None]) -> None:
        """Hands further messages over in a thread of its own; the last one is None."""

        def loop() -> None:
            message: AgentMessage | None = None
            while (message := self.receive()) is not None:
                handle(message)
            handle(None)

        threading.Thread(target=loop, name="channel", daemon=True).start()

    def phase(self, phase: Phase, step: int, own_seconds: float = 0.0) -> None:
        """What the worker does from now on."""
        self._send(PhaseChange(phase=phase, step=step, own_seconds=own_seconds))

    def row(self, row: StepRow) -> None:
        """Metrics of a step."""
        self._send(row)

    def event(self, kind: str, cause: str, message: str, data: Mapping[str, str | float]) -> None:
        """Something worth an event of the run."""
        self._send(Event(kind=kind, cause=cause, message=message, time=time.time(), data=dict(data)))

    def committed(self, saved: Saved) -> None:
        """A checkpoint was committed."""
        self._send(
            Committed(
                checkpoint=saved.name,
                step=saved.step,
                stall_seconds=saved.stall_seconds,
                write_seconds=saved.write_seconds,
            )
        )

    def finished(self, step: int) -> None:
        """The run is complete."""
        self._send(Finished(step=step))

    def failed(self, message: str) -> None:
        """Why the worker is about to exit."""
        self._send(Failed(message=message))

    def _send(self, message: BaseModel) -> None:
        line = message.model_dump_json().encode() + b"\n"
        with self._lock:
            self._socket.sendall(line)
