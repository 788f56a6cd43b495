"""Messages between engine and worker, pickled: both ends are this program. On a socket, their length goes before."""

import asyncio
import pickle
from dataclasses import dataclass
from typing import Any, BinaryIO

from longhaul_core.engine.failures import ErrorRecord

_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class Setup:
    """First message to a worker."""

    import_path: tuple[str, ...]
    preload: tuple[str, ...]
    niceness: int
    threads: int


@dataclass(frozen=True, slots=True)
class Run:
    """Run one task; the payload stays pickled until the task's modules can be imported."""

    task: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker has imported its modules."""


@dataclass(frozen=True, slots=True)
class Started:
    """The worker has the task; before this, its death has run nothing."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What the task reported."""

    value: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """What the task returned."""

    value: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """The task, or the set-up of the worker, raised."""

    record: ErrorRecord


Answer = Ready | Started | Progress | Result | Failed


def dump(message: object) -> bytes:
    """Pickle a message."""
    return pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)


def load(body: bytes) -> Any:
    """Read what `dump` gave."""
    return pickle.loads(body)  # noqa: S301  the peer is our own process


def frame(body: bytes) -> bytes:
    """Put the length before a pickled message."""
    return len(body).to_bytes(_LENGTH_BYTES) + body


def receive(stream: BinaryIO) -> Any:
    """Read the next message, or None at the end of the stream."""
    header = stream.read(_LENGTH_BYTES)
    if len(header) < _LENGTH_BYTES:
        return None
    return load(stream.read(int.from_bytes(header)))


async def receive_async(stream: asyncio.StreamReader) -> Any:
    """Read the next message, or None at the end of the stream."""
    try:
        header = await stream.readexactly(_LENGTH_BYTES)
        body = await stream.readexactly(int.from_bytes(header))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return load(body)
