"""The object store as the services see it: immutable bytes under slash-separated keys, and one conditional create."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What the store knows of one object. `size` is in bytes; `etag` changes when the object is replaced."""

    key: str
    size: int
    modified: datetime
    etag: str


class ObjectWriter(io.BufferedIOBase):
    """A stream that becomes an object as a whole or not at all.

    Leaving the `with` block publishes; an exception inside it discards. `close()` alone publishes nothing, so that a
    wrapper which closes its sink on an error (text, gzip, Parquet) cannot publish half an object.
    """

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key
        self._info: ObjectInfo | None = None

    def writable(self) -> bool:
        """Tell wrappers that this is a sink."""
        return True

    def commit(self) -> ObjectInfo:
        """Publish what was written; a second call returns the same answer."""
        if self._info is None:
            self._info = self._publish()
        return self._info

    def abort(self) -> None:
        """Discard what was written; nothing to do after a commit."""
        if self._info is None:
            self._discard()

    def _publish(self) -> ObjectInfo:
        raise NotImplementedError

    def _discard(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.abort()
        self.close()


class ObjectStore(Protocol):
    """Objects are written whole: a reader sees the old object, the new one, or none, never a part.

    Keys are relative, of plain segments (see `keys.check_key`). No key may lie below another one: where `a/b` is an
    object, `a/b/c` cannot be.
    """

    @property
    def conditional_writes(self) -> bool:
        """Whether `if_absent=True` is safe against other writers."""
        ...

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = False) -> ObjectInfo:
        """Write `data` durably.

        Raises:
            AlreadyExists: `if_absent` and another writer was first; the object is untouched.
            FailedPrecondition: `if_absent` on a store without conditional writes (NO_CONDITIONAL_WRITES).
            ResourceExhausted: no space left (DISK_FULL); nothing is visible under the key.
        """
        ...

    def put_file(self, key: str, path: Path, *, if_absent: bool = False) -> ObjectInfo:
        """Copy a local file into the store. Raises as `put`."""
        ...

    def open_write(self, key: str) -> ObjectWriter:
        """Stream an object of unknown length; it appears when the `with` block ends well. Raises as `put`."""
        ...

    def get(self, key: str) -> bytes:
        """Return the whole object. Raises NotFound."""
        ...

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, fewer at the end of the object. Raises NotFound."""
        ...

    def read_into(self, key: str, offset: int, buffer: memoryview) -> int:
        """Fill a buffer of bytes from `offset` on; returns how many came, fewer at the end. Raises NotFound."""
        ...

    def open_read(self, key: str) -> io.BufferedReader:
        """Open for buffered, seekable reading. Raises NotFound."""
        ...

    def stat(self, key: str) -> ObjectInfo:
        """Describe one object. Raises NotFound."""
        ...

    def exists(self, key: str) -> bool:
        """Tell whether the object is there."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose key begins with the string `prefix`, in ascending order of key."""
        ...

    def delete(self, key: str) -> None:
        """Remove one object; a missing one is no error."""
        ...

    def delete_prefix(self, prefix: str) -> int:
        """Remove all objects whose key begins with `prefix` (not empty) and return how many there were."""
        ...

    def local_path(self, key: str) -> Path | None:
        """Path for memory mapping where the store is a folder, else None. Raises NotFound in a folder."""
        ...
