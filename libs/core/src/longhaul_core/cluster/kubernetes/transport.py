"""HTTP to the API server: requests that are repeated where that is safe, streams, and a count of both.

The vendor's client gives addresses, TLS and credentials; its generated models are left aside, because decoding a pod
into them costs more than a hundred times the few fields that are read here.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from longhaul_core.cluster.kubernetes.credentials import Credentials
from longhaul_core.cluster.kubernetes.errors import (
    BUSY,
    Call,
    ResumePointGoneError,
    asked_pause,
    from_status,
    unreachable,
)
from longhaul_core.cluster.kubernetes.timing import Backoff, Timing
from longhaul_core.errors import LonghaulError, Unavailable

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
MAXIMUM_IN_FLIGHT = 32

_NOT_SENT = (aiohttp.ClientConnectorError,)
_BROKEN = (aiohttp.ClientError, TimeoutError, OSError)


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. `repeatable`: a second execution does no harm, so that a lost answer may be asked for again."""

    call: Call
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    content_type: str = JSON
    repeatable: bool = True


@dataclass(slots=True)
class Transport:
    """All traffic of one client. `calls` counts requests sent, by verb and resource."""

    credentials: Credentials
    timing: Timing = field(default_factory=Timing)
    calls: Counter[str] = field(default_factory=Counter)
    _client: Any = None
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    _gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAXIMUM_IN_FLIGHT))

    async def ask(self, request: Request) -> dict[str, Any]:
        """The decoded answer. Raises what `errors` makes of a refusal; `Unavailable` after the last try."""
        backoff = Backoff(self.timing.retry_base, self.timing.retry_longest)
        for attempt in range(1, self.timing.attempts + 1):
            try:
                async with self._gate:
                    return await self._ask_once(request)
            except Unavailable as error:
                pause = backoff.next_pause(at_least=asked_pause(error))
                if (
                    attempt == self.timing.attempts
                    or pause > self.timing.retry_longest
                    or not _may_repeat(request, error)
                ):
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    @asynccontextmanager
    async def stream(self, request: Request, idle_seconds: float | None) -> AsyncIterator[AsyncIterator[bytes]]:
        """Pieces of a streamed answer, as they come. Raises `Unavailable` when it breaks or is silent for too long."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.timing.connect, sock_read=idle_seconds)
        try:
            response = await self._exchange(request, timeout)
            try:
                await _check(request.call, response)
                yield response.content.iter_any()
            finally:
                response.close()
        except _BROKEN as error:
            raise unreachable(request.call, error) from error

    async def close(self) -> None:
        """Give back the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _ask_once(self, request: Request) -> dict[str, Any]:
        timeout = aiohttp.ClientTimeout(total=self.timing.request, sock_connect=self.timing.connect)
        try:
            async with await self._exchange(request, timeout) as response:
                await _check(request.call, response)
                return dict(json.loads(await response.read()))
        except _BROKEN as error:
            raise unreachable(request.call, error) from error

    async def _exchange(self, request: Request, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        """Send with the present credentials, and once more with renewed ones when they were refused."""
        client = await self._open()
        response = await self._send(client, request, timeout)
        if response.status != 401:
            return response
        response.release()
        await self.credentials.load(client.configuration)
        return await self._send(client, request, timeout)

    async def _send(self, client: Any, request: Request, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        method, url, headers, body, _ = await client.param_serialize(
            request.method,
            request.path,
            query_params=list(request.query.items()),
            header_params={"Accept": JSON, "Content-Type": request.content_type},
            body=request.body,
            auth_settings=["BearerToken"],
        )
        self.calls[request.call.key] += 1
        answer = await client.rest_client.request(method, url, headers=headers, body=body, _request_timeout=timeout)
        response: aiohttp.ClientResponse = answer.response
        return response

    async def _open(self) -> Any:
        if self._client is None:
            async with self._opening:
                if self._client is None:
                    self._client = await self.credentials.client()
        return self._client


async def _check(call: Call, response: aiohttp.ClientResponse) -> None:
    """Raise what the answer means unless it is a success."""
    if response.status < 300:
        return
    if response.status == 410:
        raise ResumePointGoneError
    raise from_status(call, response.status, _status_object(await response.read()), _retry_after(response))


def _status_object(body: bytes) -> dict[str, Any]:
    try:
        decoded = json.loads(body)
    except ValueError:
        return {"message": body[:200].decode(errors="replace").strip()} if body else {}
    return decoded if isinstance(decoded, dict) else {}


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else None


def _may_repeat(request: Request, error: LonghaulError) -> bool:
    """A request that was not executed for sure may always be repeated."""
    refused = error.reason == BUSY or isinstance(error.__cause__, _NOT_SENT)
    return request.repeatable or refused
