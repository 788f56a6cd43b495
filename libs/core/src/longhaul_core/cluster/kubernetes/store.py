"""What is known of a collection, from three sources that race: lists, watch events and answers to own writes.

Resource versions of one API server grow with every write, so the newer record wins whatever the order of arrival.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

Key = tuple[str, str]
"""Namespace and name."""


class Record(Protocol):
    """What a store holds."""

    @property
    def key(self) -> Key:
        """Place in the store."""
        ...

    @property
    def uid(self) -> str:
        """Identity of the object."""
        ...

    @property
    def version(self) -> str:
        """Resource version of the API server."""
        ...


R = TypeVar("R", bound=Record)


@dataclass(slots=True)
class Store(Generic[R]):
    """Records by key. Changing methods return what has changed."""

    _records: dict[Key, R] = field(default_factory=dict)
    _removed: set[str] = field(default_factory=set)

    def get(self, key: Key) -> R | None:
        """The record, if there is one."""
        return self._records.get(key)

    def __iter__(self) -> Iterator[R]:
        return iter([self._records[key] for key in sorted(self._records)])

    def __len__(self) -> int:
        return len(self._records)

    def put(self, record: R) -> bool:
        """Take a record from a watch or an answer; False when a newer one, or its removal, is known."""
        known = self._records.get(record.key)
        if record.uid in self._removed or (known is not None and not _newer(record.version, known.version)):
            return False
        self._records[record.key] = record
        return True

    def remove(self, key: Key, uid: str) -> bool:
        """The object is gone, says the API server's history."""
        self._removed.discard(uid)
        return self._drop(key, uid)

    def forget(self, key: Key, uid: str) -> bool:
        """The object is gone, says the answer to an own write; its history may still be on the way."""
        self._removed.add(uid)
        return self._drop(key, uid)

    def replace(self, records: Iterable[R], version: str, within: str = "") -> None:
        """Take a list at `version` for everything, or for everything in the namespace `within`."""
        found = {record.key: record for record in records}
        uids = {record.uid for record in found.values()}
        for key, known in list(self._records.items()):
            listed = found.get(key)
            gone = listed is None or listed.uid != known.uid
            if gone and within in ("", key[0]) and not _newer(known.version, version):
                del self._records[key]
        if not within:
            self._removed &= uids
        for record in found.values():
            self.put(record)

    def _drop(self, key: Key, uid: str) -> bool:
        known = self._records.get(key)
        if known is None or known.uid != uid:
            return False
        del self._records[key]
        return True


def _newer(version: str, other: str) -> bool:
    """Versions that are no numbers cannot be compared: then the last to arrive counts."""
    return int(version) > int(other) if version.isdecimal() and other.isdecimal() else True
