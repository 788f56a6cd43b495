"""Objects with resource versions, their history for watches, and the patches of the API."""

from __future__ import annotations

import asyncio
import bisect
import copy
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Raw = dict[str, Any]
Key = tuple[str, str]


class ApiError(Exception):
    """An answer other than success."""

    def __init__(self, code: int, reason: str, message: str, details: Raw | None = None, retry_after: int = -1) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message
        self.details = details or {}
        self.retry_after = retry_after

    def status(self) -> Raw:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        }


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the history."""

    version: int
    resource: str
    type: str
    object: Raw


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(slots=True)
class Objects:
    """All objects; every write gets the next version."""

    version: int = 100
    compacted: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    _objects: dict[str, dict[Key, Raw]] = field(default_factory=dict)
    _history: list[Change] = field(default_factory=list)

    def find(self, resource: str, namespace: str, name: str) -> Raw | None:
        return self._objects.get(resource, {}).get((namespace, name))

    def get(self, resource: str, namespace: str, name: str) -> Raw:
        found = self.find(resource, namespace, name)
        if found is None:
            details = {"name": name, "kind": resource}
            raise ApiError(404, "NotFound", f'{resource} "{name}" not found', details)
        return found

    def all(self, resource: str, namespace: str = "") -> list[Raw]:
        objects = self._objects.get(resource, {})
        return [objects[key] for key in sorted(objects) if namespace in ("", key[0])]

    def create(self, resource: str, namespace: str, raw: Raw) -> Raw:
        name = raw["metadata"]["name"]
        if self.find(resource, namespace, name) is not None:
            raise ApiError(409, "AlreadyExists", f'{resource} "{name}" already exists', {"name": name})
        created = copy.deepcopy(raw)
        created["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "generation": 1}
        if namespace:
            created["metadata"]["namespace"] = namespace
        return self._write(resource, "ADDED", created)

    def replace(self, resource: str, raw: Raw) -> Raw:
        """Store a changed object; one that is as before keeps its version."""
        metadata = raw["metadata"]
        if raw == self.get(resource, metadata.get("namespace", ""), metadata["name"]):
            return raw
        return self._write(resource, "MODIFIED", copy.deepcopy(raw))

    def remove(self, resource: str, raw: Raw) -> Raw:
        metadata = raw["metadata"]
        del self._objects[resource][metadata.get("namespace", ""), metadata["name"]]
        return self._record(resource, "DELETED", copy.deepcopy(raw))

    def since(self, version: int, resource: str, namespace: str) -> Iterator[Change]:
        """The changes after `version`."""
        first = bisect.bisect_right(self._history, version, key=lambda change: change.version)
        for change in self._history[first:]:
            place = change.object["metadata"].get("namespace", "")
            if change.resource == resource and namespace in ("", place):
                yield change

    def compact(self) -> None:
        """Forget the history, as etcd does every few minutes."""
        self._history.clear()
        self.compacted = self.version

    def _write(self, resource: str, type_: str, raw: Raw) -> Raw:
        metadata = raw["metadata"]
        self._objects.setdefault(resource, {})[metadata.get("namespace", ""), metadata["name"]] = raw
        return self._record(resource, type_, raw)

    def _record(self, resource: str, type_: str, raw: Raw) -> Raw:
        self.version += 1
        raw["metadata"]["resourceVersion"] = str(self.version)
        self._history.append(Change(self.version, resource, type_, copy.deepcopy(raw)))
        self.changed.set()
        self.changed = asyncio.Event()
        return raw


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


MERGE_KEYS = {"conditions": "type", "containerStatuses": None, "addresses": "type"}
"""Lists that a strategic merge patch merges by key; others are replaced."""


def strategic_merge(target: Any, patch: Any, field_name: str = "") -> Any:
    """The part of Kubernetes' strategic merge that nodes and pods need."""
    if isinstance(patch, list):
        key = MERGE_KEYS.get(field_name)
        return patch if key is None else _merge_list(list(target or []), patch, key)
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = strategic_merge(merged.get(name), value, name)
    return merged


def _merge_list(target: list[Raw], patch: list[Raw], key: str) -> list[Raw]:
    for item in patch:
        place = next((index for index, other in enumerate(target) if other[key] == item[key]), None)
        if item.get("$patch") == "delete":
            if place is not None:
                del target[place]
        elif place is None:
            target.append(strategic_merge({}, item))
        else:
            target[place] = strategic_merge(target[place], item)
    return target
