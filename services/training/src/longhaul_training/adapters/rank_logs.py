"""Logs of ranks: immutable chunks of lines in the object store, written by the agents, read here by any replica.

Keys: projects/{project}/runs/{run}/logs/rank-{rank}/e{epoch}-{pod}-{number}.log
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from longhaul_core.objects import ObjectStore

_KEY = re.compile(r"/rank-(-?\d+)/e(\d+)-(.+)-(\d+)\.log$")


@dataclass(frozen=True, slots=True)
class LogChunk:
    """One chunk; `at` is when it was written, so that lines of several ranks can be put in order."""

    key: str
    rank: int
    epoch: int
    pod: str
    number: int
    at: datetime


@dataclass(frozen=True, slots=True)
class LogText:
    """One line of a rank."""

    chunk: LogChunk
    text: str


def list_chunks(objects: ObjectStore, project: str, run_id: str, rank: int | None) -> list[LogChunk]:
    """The chunks of one rank or of all: a rank's in its own order, ranks interleaved by time."""
    prefix = f"projects/{project}/runs/{run_id}/logs/"
    if rank is not None:
        prefix += f"rank-{rank:05d}/"
    chunks = [chunk for info in objects.list(prefix) if (chunk := _parse(info.key, info.modified)) is not None]
    return sorted(chunks, key=lambda c: (c.epoch, c.at, c.rank, c.pod, c.number))


def read_lines(objects: ObjectStore, chunks: list[LogChunk]) -> Iterator[LogText]:
    """The lines of chunks, in order."""
    for chunk in chunks:
        for line in objects.get(chunk.key).decode(errors="replace").splitlines():
            yield LogText(chunk, line)


def tail(objects: ObjectStore, chunks: list[LogChunk], lines: int) -> list[LogText]:
    """The last lines, reading no more chunks than needed."""
    found: list[LogText] = []
    for chunk in reversed(chunks):
        found = [*read_lines(objects, [chunk]), *found]
        if len(found) >= lines:
            break
    return found[-lines:]


def _parse(key: str, at: datetime) -> LogChunk | None:
    match = _KEY.search(key)
    if match is None:
        return None
    return LogChunk(key, int(match[1]), int(match[2]), match[3], int(match[4]), at)
