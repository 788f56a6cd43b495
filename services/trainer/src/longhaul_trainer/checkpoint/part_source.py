"""Where the bytes of a part may be read from: the object store, or a copy that lies nearer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from longhaul_core.manifests import Part
from longhaul_core.objects import ObjectStore
from longhaul_core.objects.filesystem import read_file_into


class PartSource(Protocol):
    """The bytes of one part, by offset; called from several threads."""

    def size(self) -> int:
        """Bytes that there are. Raises NotFound or OSError."""
        ...

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fills the buffer from an offset on; returns how many bytes came, fewer at the end."""
        ...


class NearPlace(Protocol):
    """Holds copies of parts nearer than the store. A copy counts only if it has the part's digest."""

    name: str

    def find(self, part: Part) -> PartSource | None:
        """A copy, not verified, or None."""
        ...

    def reject(self, part: Part) -> None:
        """The copy that was found is damaged: forget it."""
        ...


@dataclass(frozen=True, slots=True)
class StoredPart:
    """The object itself."""

    store: ObjectStore
    key: str

    def size(self) -> int:
        """As the store says."""
        return self.store.stat(self.key).size

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Straight into the buffer."""
        return self.store.read_into(self.key, offset, buffer)


@dataclass(frozen=True, slots=True)
class FilePart:
    """A file of this machine."""

    path: Path

    def size(self) -> int:
        """As the file system says."""
        return self.path.stat().st_size

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Straight into the buffer."""
        return read_file_into(self.path, offset, buffer)
