"""The part of the core/v1 API that longhaul uses: nodes, pods, their events and logs."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import quote

from longhaul_core.cluster.kubernetes.errors import Call, ResumePointGoneError, from_status
from longhaul_core.cluster.kubernetes.transport import JSON, MERGE_PATCH, STRATEGIC_PATCH, Request, Transport
from longhaul_core.errors import Unavailable

PAGE_SIZE = 250
LIST_ATTEMPTS = 3

Raw = dict[str, Any]
"""An object as the API server wrote it."""


class Resource(StrEnum):
    """Kinds of objects, by their name in paths and RBAC rules."""

    NODES = "nodes"
    PODS = "pods"
    EVENTS = "events"
    CONFIG_MAPS = "configmaps"
    POD_GROUPS = "podgroups"
    WORKLOADS = "workloads"
    JOBS = "jobs"


@dataclass(frozen=True, slots=True)
class Collection:
    """What is listed and watched: a kind, in one namespace or everywhere. `version` is empty in the core group."""

    resource: Resource
    namespace: str = ""
    version: str = ""

    def call(self, verb: str, name: str = "") -> Call:
        """The call of that verb on it."""
        return Call(verb, self.resource, self.namespace, name, self.version.rpartition("/")[0])

    @property
    def path(self) -> str:
        """Path of the collection."""
        within = f"/namespaces/{quote(self.namespace)}" if self.namespace else ""
        root = f"/apis/{self.version}" if self.version else "/api/v1"
        return f"{root}{within}/{self.resource}"

    def object_path(self, name: str, subresource: str = "") -> str:
        """Path of one object of it, or of a part of that object."""
        path = f"{self.path}/{quote(name)}"
        return f"{path}/{subresource}" if subresource else path


NODES = Collection(Resource.NODES)


@dataclass(frozen=True, slots=True)
class Listing:
    """A whole collection at one resource version."""

    items: list[Raw]
    version: str


@dataclass(frozen=True, slots=True)
class Api:
    """Typed calls over the transport; raises the errors of `longhaul_core.errors` only."""

    transport: Transport

    async def list_all(
        self, collection: Collection, labels: Mapping[str, str] | None = None, fields: str = ""
    ) -> Listing:
        """Everything in the collection, page by page; begun again when the pages expire in the middle."""
        for _ in range(LIST_ATTEMPTS):
            with suppress(ResumePointGoneError):
                return await self._list_pages(collection, _selection(labels, fields))
        raise Unavailable(
            f"the pages of {collection.resource} expired {LIST_ATTEMPTS} times while they were read",
            reason="CLUSTER_UNAVAILABLE",
        )

    async def get(self, collection: Collection, name: str) -> Raw:
        """One object."""
        return await self.transport.ask(Request(collection.call("get", name), "GET", collection.object_path(name)))

    async def create_pod(self, namespace: str, manifest: Raw) -> Raw:
        """Store a pod. A lost answer is not asked for again: the second would be a false `AlreadyExists`."""
        pods = Collection(Resource.PODS, namespace)
        call = pods.call("create", manifest["metadata"]["name"])
        return await self.transport.ask(Request(call, "POST", pods.path, body=manifest, repeatable=False))

    async def create(self, collection: Collection, raw: Raw) -> Raw:
        """Store an object of any other kind."""
        call = collection.call("create", raw["metadata"]["name"])
        return await self.transport.ask(Request(call, "POST", collection.path, body=raw, repeatable=False))

    async def delete(self, collection: Collection, name: str) -> None:
        """Delete an object of any other kind; what it owns is deleted after it."""
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        call = collection.call("delete", name)
        await self.transport.ask(Request(call, "DELETE", collection.object_path(name), body=options))

    async def delete_pod(self, namespace: str, name: str, uid: str | None, grace_seconds: int | None) -> Raw:
        """Delete a pod, only that of `uid` if given; None leaves the grace to the pod."""
        pods = Collection(Resource.PODS, namespace)
        options: Raw = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        request = Request(pods.call("delete", name), "DELETE", pods.object_path(name), body=options)
        return await self.transport.ask(request)

    async def patch_node(self, name: str, patch: Raw) -> Raw:
        """Merge into metadata and spec; with a resource version inside only onto that version."""
        call = NODES.call("patch", name)
        return await self.transport.ask(
            Request(call, "PATCH", NODES.object_path(name), body=patch, content_type=MERGE_PATCH)
        )

    async def patch_node_status(self, name: str, patch: Raw) -> Raw:
        """Merge into the status, conditions by their type."""
        call = Call("patch", "nodes/status", name=name)
        path = NODES.object_path(name, "status")
        return await self.transport.ask(Request(call, "PATCH", path, body=patch, content_type=STRATEGIC_PATCH))

    async def watch(
        self, collection: Collection, version: str, window_seconds: float, slack_seconds: float
    ) -> AsyncGenerator[Raw, None]:
        """Changes after `version` until the window ends; the first item is `{}` once the server has accepted.

        Raises `ResumePointGoneError` when the history is gone, and what errors inside the stream mean.
        """
        window = max(1, round(window_seconds * random.uniform(0.8, 1.0)))  # noqa: S311 (spreads reconnects)
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(window),
        }
        call = collection.call("watch")
        async with self.transport.stream(
            Request(call, "GET", collection.path, query), idle_seconds=window + slack_seconds
        ) as pieces:
            yield {}
            async with aclosing(_lines(pieces)) as lines:
                async for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise _stream_error(call, event["object"])
                    yield event

    async def logs(self, namespace: str, name: str, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """Pieces of a container's output."""
        pods = Collection(Resource.PODS, namespace)
        call = Call("get", "pods/log", namespace, name)
        request = Request(call, "GET", pods.object_path(name, "log"), query, content_type=JSON)
        async with self.transport.stream(request, idle_seconds=None) as pieces:
            async for piece in pieces:
                yield piece

    async def _list_pages(self, collection: Collection, selection: Mapping[str, str]) -> Listing:
        items: list[Raw] = []
        query = {**selection, "limit": str(PAGE_SIZE)}
        while True:
            page = await self.transport.ask(Request(collection.call("list"), "GET", collection.path, query))
            items.extend(page.get("items") or ())
            metadata = page["metadata"]
            if not (token := metadata.get("continue")):
                return Listing(items, metadata["resourceVersion"])
            query = {**query, "continue": token}


def _selection(labels: Mapping[str, str] | None, fields: str) -> dict[str, str]:
    selection = {}
    if labels:
        selection["labelSelector"] = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    if fields:
        selection["fieldSelector"] = fields
    return selection


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Lines of any length; a cut last line is no line."""
    rest = bytearray()
    async for piece in pieces:
        rest += piece
        if b"\n" in piece:
            *whole, last = rest.split(b"\n")
            rest = bytearray(last)
            for line in whole:
                if line:
                    yield bytes(line)


def _stream_error(call: Call, status: Raw) -> Exception:
    code = int(status.get("code") or 500)
    return ResumePointGoneError() if code == 410 else from_status(call, code, status)
