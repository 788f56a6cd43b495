"""An object store in a folder: temporary file, fsync, rename (link for a conditional create), fsync of the folders.

The last of the space is left to databases that share the disk.

A writer killed at any moment leaves at most an invisible temporary file, which a later `open` sweeps.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path

from longhaul_core.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from longhaul_core.objects.durable import (
    create_temporary,
    keep_reserve,
    os_errors,
    reserve_bytes,
    sweep_temporaries,
    sync_folders,
    write_all,
)
from longhaul_core.objects.keys import check_key, check_prefix
from longhaul_core.objects.store import ObjectInfo, ObjectWriter

_TEMPORARY = ".tmp"  # no key reaches it: segments never begin with a dot
_SWEEP_AFTER_SECONDS = 3600.0  # only between creation and lock is a live writer's file unlocked
_COPY_BYTES = 4 << 20


def read_file_into(path: Path, offset: int, buffer: memoryview) -> int:
    """Fill a buffer from a file; returns how many bytes came, fewer at its end. Raises OSError."""
    filled = 0
    with path.open("rb", buffering=0) as source:
        while filled < len(buffer) and (count := os.preadv(source.fileno(), [buffer[filled:]], offset + filled)):
            filled += count
    return filled


class FilesystemStore:
    """Objects as files below `root`; conditional create holds between processes of all machines that share it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._temporary = root / _TEMPORARY
        self.reserve = 0

    @classmethod
    def open(cls, root: Path, *, sweep_after_seconds: float = _SWEEP_AFTER_SECONDS) -> "FilesystemStore":
        """Create the folder where it is missing and sweep what dead writers left."""
        store = cls(root.absolute())
        with os_errors(store.root):
            store._temporary.mkdir(parents=True, exist_ok=True)
            sweep_temporaries(store._temporary, sweep_after_seconds)
            store.reserve = reserve_bytes(store.root)
        return store

    @property
    def conditional_writes(self) -> bool:
        """Always: `link` fails where the name exists."""
        return True

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = False) -> ObjectInfo:
        """See `ObjectStore.put`."""
        with self._writer(key, if_absent) as out:
            out.write(data)
        return out.commit()

    def put_file(self, key: str, path: Path, *, if_absent: bool = False) -> ObjectInfo:
        """See `ObjectStore.put_file`."""
        with os_errors(path), path.open("rb") as source, self._writer(key, if_absent) as out:
            shutil.copyfileobj(source, out, _COPY_BYTES)
        return out.commit()

    def open_write(self, key: str) -> ObjectWriter:
        """See `ObjectStore.open_write`."""
        return self._writer(key, if_absent=False)

    def get(self, key: str) -> bytes:
        """See `ObjectStore.get`."""
        path = self._path(key)
        with os_errors(path, key):
            return path.read_bytes()

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See `ObjectStore.get_range`."""
        with os_errors(self._path(key), key), self.open_read(key) as source:
            source.seek(offset)
            return source.read(length)

    def read_into(self, key: str, offset: int, buffer: memoryview) -> int:
        """See `ObjectStore.read_into`; the kernel copies straight into the buffer."""
        path = self._path(key)
        with os_errors(path, key):
            return read_file_into(path, offset, buffer)

    def open_read(self, key: str) -> BufferedReader:
        """See `ObjectStore.open_read`."""
        path = self._path(key)
        with os_errors(path, key):
            return path.open("rb")

    def stat(self, key: str) -> ObjectInfo:
        """See `ObjectStore.stat`."""
        path = self._path(key)
        with os_errors(path, key):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            return _info(key, path.stat())

    def exists(self, key: str) -> bool:
        """See `ObjectStore.exists`."""
        return self._path(key).is_file()

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.list`; an object deleted during the walk may be missing."""
        folder = check_prefix(prefix).rpartition("/")[0]
        yield from self._walk(self.root / folder, f"{folder}/" if folder else "", prefix)

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        path = self._path(key)
        with os_errors(path, key), suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self.unlink(path)
            sync_folders(self._prune(path.parent), self.root)

    def delete_prefix(self, prefix: str) -> int:
        """See `ObjectStore.delete_prefix`."""
        if not prefix:
            raise InvalidArgument("A prefix to delete must not be empty.", reason="INVALID_OBJECT_KEY")
        paths = [self._path(info.key) for info in self.list(prefix)]
        with os_errors(self.root / prefix, prefix):
            for path in paths:
                with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                    self.unlink(path)
            for folder in {self._prune(folder) for folder in {path.parent for path in paths}}:
                with suppress(FileNotFoundError):  # pruned with another
                    sync_folders(folder, self.root)
        return len(paths)

    def local_path(self, key: str) -> Path | None:
        """See `ObjectStore.local_path`."""
        self.stat(key)
        return self._path(key)

    def publish(self, key: str, temporary: Path, target: Path, if_absent: bool) -> ObjectInfo:
        """Give a synced temporary file its name; the folders may be pruned by a deleter meanwhile, hence the loop."""
        info = _info(key, temporary.stat())
        while True:
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                if if_absent:
                    os.link(temporary, target)
                else:
                    temporary.replace(target)
                with suppress(FileNotFoundError):  # deleted and pruned already, by another
                    sync_folders(target.parent, self.root)
                return info
            except FileNotFoundError:
                if not temporary.exists():
                    raise
            except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
                if target.is_file():
                    raise _lost(key) from error
                if target.is_dir() or any(folder.is_file() for folder in target.parents):
                    raise _nested(key) from error

    def unlink(self, path: Path) -> None:
        """Remove the file of an object."""
        path.unlink()

    def new_temporary(self) -> tuple[int, Path]:
        """Create a locked temporary file on the file system of the store."""
        return create_temporary(self._temporary)

    def _writer(self, key: str, if_absent: bool) -> ObjectWriter:
        target = self._path(key)
        if if_absent and target.is_file():  # spares the bytes of a sure loser; the link decides
            raise _lost(key)
        with os_errors(target, key):
            return _FileWriter(self, key, target, if_absent)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _walk(self, folder: Path, base: str, prefix: str) -> Iterator[ObjectInfo]:
        try:
            entries = [(entry.name + "/" * entry.is_dir(), entry) for entry in os.scandir(folder)]
        except (FileNotFoundError, NotADirectoryError):
            return
        for name, entry in sorted(entries, key=lambda item: item[0]):  # "a-b" sorts before "a/", as whole keys do
            key = base + name
            if name.startswith(".") or not (key.startswith(prefix) or prefix.startswith(key)):
                continue
            if name.endswith("/"):
                yield from self._walk(folder / entry.name, key, prefix)
            else:
                with suppress(FileNotFoundError):
                    yield _info(key, entry.stat())

    def _prune(self, folder: Path) -> Path:
        """Remove empty folders upwards; returns the first that stays."""
        while folder != self.root:
            try:
                folder.rmdir()
            except OSError:
                break
            folder = folder.parent
        return folder


class _FileWriter(ObjectWriter):
    def __init__(self, store: FilesystemStore, key: str, target: Path, if_absent: bool) -> None:
        super().__init__(key)
        self._store = store
        self._target = target
        self._if_absent = if_absent
        self._size = 0
        self._descriptor = -1
        self._descriptor, self._temporary = store.new_temporary()

    def write(self, data: bytes | memoryview, /) -> int:  # type: ignore[override]
        with os_errors(self._target, self.key):
            keep_reserve(self._descriptor, len(data), self._store.reserve)
            written = write_all(self._descriptor, data)
        self._size += written
        return written

    def tell(self) -> int:
        return self._size

    def _publish(self) -> ObjectInfo:
        try:
            with os_errors(self._target, self.key):
                os.fsync(self._descriptor)
                return self._store.publish(self.key, self._temporary, self._target, self._if_absent)
        finally:
            self._discard()

    def _discard(self) -> None:
        if self._descriptor >= 0:
            self._temporary.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.abort()


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    modified = datetime.fromtimestamp(status.st_mtime, UTC)
    return ObjectInfo(key, status.st_size, modified, f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}")


def _lost(key: str) -> AlreadyExists:
    return AlreadyExists(f"Object {key!r} already exists.", reason="OBJECT_EXISTS", metadata={"key": key})


def _nested(key: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"Object {key!r} lies below or above another object.", reason="OBJECT_KEY_CONFLICT", metadata={"key": key}
    )
