"""The HTTP side: core/v1 as far as longhaul uses it, watches with bookmarks, and an API server that can go away."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, web

from fakekube.admission import Admission
from fakekube.faults import Fault, Ledger
from fakekube.objects import ApiError, Objects, Raw, merge, now, strategic_merge

TOKEN = "fake-token"
KINDS = {
    "nodes": "Node",
    "pods": "Pod",
    "namespaces": "Namespace",
    "events": "Event",
    "configmaps": "ConfigMap",
    "secrets": "Secret",
    "podgroups": "PodGroup",
    "jobs": "Job",
}
NAMESPACED = ("pods", "events")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeKubernetes:
    """Started with `start`; `objects`, `admission` and `ledger` may be looked at and changed at any time."""

    def __init__(self, *, latency: float = 0.0, bookmark_seconds: float = 0.2, token: str = TOKEN) -> None:
        self.objects = Objects()
        self.admission = Admission(self.objects)
        self.ledger = Ledger()
        self.latency = latency
        self.bookmark_seconds = bookmark_seconds
        self.token = token
        self.port = 0
        self.logs: dict[str, bytes] = {}
        self.answering = asyncio.Event()
        self.answering.set()
        self.late_410 = True
        self._cut = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.objects.create("namespaces", "", {"metadata": {"name": "default"}})

    async def start(self, port: int = 0) -> None:
        app = web.Application(middlewares=[self._errors])
        base = "/api/v1"
        groups = "/apis/{group}/{version}/namespaces/{namespace}/{resource:podgroups|jobs}"
        app.router.add_route("*", groups, self._collection)
        app.router.add_route("*", groups + "/{name}", self._object)
        app.router.add_route("*", base + "/{resource}", self._collection)
        app.router.add_route("*", base + "/namespaces/{namespace}/{resource}", self._collection)
        app.router.add_route("*", base + "/{resource}/{name}", self._object)
        app.router.add_route("*", base + "/namespaces/{namespace}/{resource}/{name}", self._object)
        app.router.add_route("*", base + "/nodes/{name}/{sub}", self._node_part)
        app.router.add_route("*", base + "/namespaces/{namespace}/pods/{name}/{sub}", self._pod_part)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port or self.port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def stop(self) -> None:
        """Go away: connections are cut, new ones refused. `start` brings it back on the same port."""
        self.cut_watches()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def cut_watches(self) -> None:
        """End every watch now, in the middle of a line."""
        self._cut.set()
        self._cut = asyncio.Event()

    def write_kubeconfig(self, path: Path) -> Path:
        user = {"name": "u", "user": {"token": self.token}}
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}
        context = {"name": "fake", "context": {"cluster": "c", "user": "u"}}
        config = {"clusters": [cluster], "users": [user], "contexts": [context], "current-context": "fake"}
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **config}))
        return path

    # What happens to every request

    @web.middleware
    async def _errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        verb, resource = _verb(request), _resource(request)
        self.ledger.calls[verb, resource] += 1
        await self.answering.wait()
        if self.latency:
            await asyncio.sleep(self.latency)
        try:
            return await self._with_fault(request, handler, self.ledger.fault(verb, resource), verb, resource)
        except ApiError as error:
            headers = {"Retry-After": str(error.retry_after)} if error.retry_after >= 0 else {}
            return web.json_response(error.status(), status=error.code, headers=headers)

    async def _with_fault(
        self, request: web.Request, handler: Handler, fault: Fault | None, verb: str, resource: str
    ) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            raise ApiError(401, "Unauthorized", "Unauthorized")
        if (verb, resource) in self.ledger.denied:
            namespace = request.match_info.get("namespace", "")
            place = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
            who = 'User "system:serviceaccount:longhaul:training"'
            message = f'{resource} is forbidden: {who} cannot {verb} resource "{resource}" in API group "" {place}'
            raise ApiError(403, "Forbidden", message, {"kind": resource})
        if fault is None:
            return await handler(request)
        if fault.executed:
            await handler(request)
        if fault.status:
            retry = -1 if fault.retry_after is None else fault.retry_after
            raise ApiError(fault.status, fault.reason, fault.message, retry_after=retry)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    # Collections

    async def _collection(self, request: web.Request) -> web.StreamResponse:
        resource, namespace = request.match_info["resource"], request.match_info.get("namespace", "")
        if request.method == "POST":
            raw = await request.json()
            if resource == "pods":
                self.admission.admit(namespace, raw)
                raw = {**raw, "status": {"phase": "Pending", "qosClass": "Guaranteed"}}
            elif namespace and self.objects.find("namespaces", "", namespace) is None:
                raise ApiError(404, "NotFound", f'namespaces "{namespace}" not found', {"kind": "namespaces"})
            return web.json_response(self.objects.create(resource, namespace, raw), status=201)
        if request.query.get("watch"):
            return await self._watch(request, resource, namespace)
        return web.json_response(self._list(request, resource, namespace))

    def _list(self, request: web.Request, resource: str, namespace: str) -> Raw:
        offset = 0
        if token := request.query.get("continue"):
            version, offset = map(int, token.split(":"))
            if version < self.objects.compacted:
                raise ApiError(410, "Expired", "The provided continue parameter is too old")
        items = [raw for raw in self.objects.all(resource, namespace) if _selected(raw, request)]
        limit = int(request.query.get("limit", 0)) or len(items) or 1
        page = items[offset : offset + limit]
        metadata: Raw = {"resourceVersion": str(self.objects.version)}
        if offset + limit < len(items):
            metadata["continue"] = f"{self.objects.version}:{offset + limit}"
        return {"kind": f"{KINDS[resource]}List", "apiVersion": "v1", "metadata": metadata, "items": page}

    async def _watch(self, request: web.Request, resource: str, namespace: str) -> web.StreamResponse:
        version = int(request.query["resourceVersion"])
        gone = ApiError(410, "Expired", f"too old resource version: {version} ({self.objects.compacted})")
        expired = version < self.objects.compacted
        self.late_410 = not self.late_410 if expired else self.late_410
        if expired and not self.late_410:
            raise gone
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if expired:
            await _send(response, "ERROR", gone.status())
            return response
        cut, deadline = self._cut, time.monotonic() + int(request.query.get("timeoutSeconds", 1800))
        while time.monotonic() < deadline and not cut.is_set():
            await self.answering.wait()
            changed = self.objects.changed
            for change in self.objects.since(version, resource, namespace):
                await _send(response, change.type, _typed(change.object, resource))
            version = self.objects.version
            if not await _first_of((changed, cut), min(self.bookmark_seconds, deadline - time.monotonic())):
                bookmark = {"metadata": {"resourceVersion": str(version)}}
                await _send(response, "BOOKMARK", _typed(bookmark, resource))
        if cut.is_set():
            await response.write(b'{"type":"MODIFIED","obj')
            assert request.transport is not None
            request.transport.abort()
        return response

    # Objects

    async def _object(self, request: web.Request) -> web.StreamResponse:
        resource, name = request.match_info["resource"], request.match_info["name"]
        namespace = request.match_info.get("namespace", "")
        found = self.objects.get(resource, namespace, name)
        if request.method == "DELETE":
            return web.json_response(_typed(self._delete(resource, found, await _json(request)), resource))
        if request.method == "PATCH":
            patched = _patched(found, await request.json(), request.content_type)
            found = self.objects.replace(resource, {**patched, "status": found.get("status", {})})
        return web.json_response(_typed(found, resource))

    async def _node_part(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(await self._patch_status(request, "nodes", ""))

    async def _pod_part(self, request: web.Request) -> web.StreamResponse:
        namespace, name, part = (request.match_info[key] for key in ("namespace", "name", "sub"))
        if part == "status":
            return web.json_response(await self._patch_status(request, "pods", namespace))
        pod = self.objects.get("pods", namespace, name)
        if part == "log":
            return await self._log(request, pod)
        target = (await request.json())["target"]["name"]
        if pod["spec"].get("nodeName"):
            raise ApiError(409, "Conflict", f"pod {name} is already assigned to node {pod['spec']['nodeName']}")
        bound = merge(pod, {"spec": {"nodeName": target}})
        scheduled = {"status": {"conditions": [{"type": "PodScheduled", "status": "True", "reason": None}]}}
        self.objects.replace("pods", strategic_merge(bound, scheduled))
        return web.json_response({"kind": "Status", "status": "Success"}, status=201)

    async def _log(self, request: web.Request, pod: Raw) -> web.StreamResponse:
        name = pod["metadata"]["name"]
        if not (pod["status"].get("containerStatuses")):
            message = f'container "main" in pod "{name}" is waiting to start: ContainerCreating'
            raise ApiError(400, "BadRequest", message)
        if (port := self._kubelet_port(pod)) and name not in self.logs:
            return await _ask_kubelet(port, pod, request)
        data = self.logs.get(name, b"")
        if (tail := request.query.get("tailLines")) is not None:
            data = b"".join(data.splitlines(keepends=True)[-int(tail) :]) if int(tail) else b""
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        await response.write(data)
        sent = len(data)
        while request.query.get("follow") == "true" and not _ended(self.objects.find("pods", *_place(pod))):
            await _first_of((self.objects.changed,), 0.05)
            fresh = self.logs.get(name, b"")[sent:]
            await response.write(fresh)
            sent += len(fresh)
        await response.write(self.logs.get(name, b"")[sent:] if request.query.get("follow") == "true" else b"")
        return response

    def _kubelet_port(self, pod: Raw) -> int:
        node = self.objects.find("nodes", "", pod["spec"]["nodeName"]) or {}
        endpoints = (node.get("status") or {}).get("daemonEndpoints") or {}
        return int(endpoints.get("kubeletEndpoint", {}).get("Port", 0))

    async def _patch_status(self, request: web.Request, resource: str, namespace: str) -> Raw:
        found = self.objects.get(resource, namespace, request.match_info["name"])
        patched = _patched(found, await request.json(), request.content_type)
        return _typed(self.objects.replace(resource, {**found, "status": patched.get("status", {})}), resource)

    def _delete(self, resource: str, found: Raw, options: Raw) -> Raw:
        metadata, name = found["metadata"], found["metadata"]["name"]
        wanted = (options.get("preconditions") or {}).get("uid")
        if wanted not in (None, metadata["uid"]):
            message = (
                f'Operation cannot be fulfilled on Pod "{name}": the UID in the precondition ({wanted}) does not match '
                f"the UID in record ({metadata['uid']}). The object might have been deleted and then recreated"
            )
            raise ApiError(409, "Conflict", message, {"name": name})
        spec = found.get("spec") or {}
        grace = options.get("gracePeriodSeconds")
        grace = int(spec.get("terminationGracePeriodSeconds", 30) if grace is None else grace)
        if resource != "pods" or not spec.get("nodeName") or _ended(found):
            grace = 0
        if grace == 0 and not metadata.get("finalizers"):
            marked = merge(found, {"metadata": {"deletionGracePeriodSeconds": 0}})
            return self.objects.remove(resource, marked)
        grace = min(grace, metadata.get("deletionGracePeriodSeconds", grace))
        until = (datetime.now(UTC) + timedelta(seconds=grace)).strftime("%Y-%m-%dT%H:%M:%SZ")
        deadline = {"deletionTimestamp": until, "deletionGracePeriodSeconds": grace}
        return self.objects.replace(resource, merge(found, {"metadata": deadline}))


async def _first_of(events: tuple[asyncio.Event, ...], timeout: float) -> bool:
    """Wait for any of the events; whether one came in time."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        done, _ = await asyncio.wait(waits, timeout=max(0.0, timeout), return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for wait in waits:
            wait.cancel()


async def _send(response: web.StreamResponse, type_: str, raw: Raw) -> None:
    await response.write(json.dumps({"type": type_, "object": raw}).encode() + b"\n")


async def _json(request: web.Request) -> Raw:
    body = await request.read()
    decoded: Any = json.loads(body) if body else {}
    return decoded or {}


def _patched(found: Raw, patch: Raw, content_type: str) -> Raw:
    expected = (patch.get("metadata") or {}).pop("resourceVersion", None)
    if expected not in (None, found["metadata"]["resourceVersion"]):
        name = found["metadata"]["name"]
        message = f'Operation cannot be fulfilled on "{name}": the object has been modified; please apply your changes'
        raise ApiError(409, "Conflict", message, {"name": name})
    if content_type == "application/strategic-merge-patch+json":
        merged: Raw = strategic_merge(found, patch)
    elif content_type == "application/merge-patch+json":
        merged = merge(found, patch)
    else:
        raise ApiError(415, "UnsupportedMediaType", f"cannot patch with {content_type}")
    return merged


def _selected(raw: Raw, request: web.Request) -> bool:
    labels = raw["metadata"].get("labels") or {}
    for term in filter(None, request.query.get("labelSelector", "").split(",")):
        key, _, value = term.partition("=")
        if labels.get(key) != value:
            return False
    for term in filter(None, request.query.get("fieldSelector", "").split(",")):
        path, _, value = term.partition("=")
        found: Any = raw
        for key in path.split("."):
            found = (found or {}).get(key)
        if found != value:
            return False
    return True


def _typed(raw: Raw, resource: str) -> Raw:
    return {"kind": KINDS[resource], "apiVersion": "v1", **raw}


def _ended(pod: Raw | None) -> bool:
    return pod is None or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _place(raw: Raw) -> tuple[str, str]:
    return raw["metadata"].get("namespace", ""), raw["metadata"]["name"]


def _resource(request: web.Request) -> str:
    parts = request.match_info
    resource = parts.get("resource") or ("nodes" if "/nodes/" in request.path else "pods")
    return f"{resource}/{parts['sub']}" if "sub" in parts else resource


async def _ask_kubelet(port: int, pod: Raw, request: web.Request) -> web.Response:
    metadata, container = pod["metadata"], pod["spec"]["containers"][0]["name"]
    url = f"https://127.0.0.1:{port}/containerLogs/{metadata['namespace']}/{metadata['name']}/{container}"
    async with ClientSession() as session, session.get(url, params=request.query, ssl=False) as answer:
        return web.Response(status=answer.status, body=await answer.read(), content_type="text/plain")


def _verb(request: web.Request) -> str:
    if request.method == "GET":
        if "name" in request.match_info:
            return "get"
        return "watch" if request.query.get("watch") else "list"
    return {"POST": "create", "PATCH": "patch", "DELETE": "delete"}[request.method]


__all__ = ["FakeKubernetes", "now"]
