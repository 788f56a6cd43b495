"""An object store that counts and times what it is asked, so that a failing store is seen before it is felt."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from longhaul_core.errors import AlreadyExists, NotFound
from longhaul_core.metrics import StoreMetrics
from longhaul_core.objects.store import ObjectInfo, ObjectStore, ObjectWriter

T = TypeVar("T")

_ANSWERS = (NotFound, AlreadyExists)
"""Answers of a store that works."""


class MeasuredStore:
    """Passes everything on; streams are counted when they are opened, listings when they end."""

    def __init__(self, store: ObjectStore, metrics: StoreMetrics) -> None:
        self._store = store
        self._metrics = metrics

    @property
    def conditional_writes(self) -> bool:
        """As the store says."""
        return self._store.conditional_writes

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = False) -> ObjectInfo:
        """Write an object."""
        return self._measured("put", lambda: self._store.put(key, data, if_absent=if_absent))

    def put_file(self, key: str, path: Path, *, if_absent: bool = False) -> ObjectInfo:
        """Copy a file into the store."""
        return self._measured("put", lambda: self._store.put_file(key, path, if_absent=if_absent))

    def open_write(self, key: str) -> ObjectWriter:
        """Stream an object into the store."""
        return self._measured("open_write", lambda: self._store.open_write(key))

    def get(self, key: str) -> bytes:
        """Return an object."""
        return self._measured("get", lambda: self._store.get(key))

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Return a part of an object."""
        return self._measured("get", lambda: self._store.get_range(key, offset, length))

    def read_into(self, key: str, offset: int, buffer: memoryview) -> int:
        """Fill a buffer from an object."""
        return self._measured("get", lambda: self._store.read_into(key, offset, buffer))

    def open_read(self, key: str) -> io.BufferedReader:
        """Open an object for reading."""
        return self._measured("open_read", lambda: self._store.open_read(key))

    def stat(self, key: str) -> ObjectInfo:
        """Describe an object."""
        return self._measured("stat", lambda: self._store.stat(key))

    def exists(self, key: str) -> bool:
        """Tell whether an object is there."""
        return self._measured("stat", lambda: self._store.exists(key))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects below a prefix."""
        with self._timed("list"):
            yield from self._store.list(prefix)

    def delete(self, key: str) -> None:
        """Remove an object."""
        self._measured("delete", lambda: self._store.delete(key))

    def delete_prefix(self, prefix: str) -> int:
        """Remove all objects below a prefix."""
        return self._measured("delete", lambda: self._store.delete_prefix(prefix))

    def local_path(self, key: str) -> Path | None:
        """Path of an object where the store is a folder."""
        return self._store.local_path(key)

    def _measured(self, operation: str, work: Callable[[], T]) -> T:
        with self._timed(operation):
            return work()

    @contextmanager
    def _timed(self, operation: str) -> Iterator[None]:
        started, outcome = time.perf_counter(), "failed"
        try:
            yield
            outcome = "ok"
        except (*_ANSWERS, GeneratorExit):
            outcome = "ok"
            raise
        finally:
            self._metrics.seconds.labels(operation).observe(time.perf_counter() - started)
            self._metrics.operations.labels(operation, outcome).inc()
