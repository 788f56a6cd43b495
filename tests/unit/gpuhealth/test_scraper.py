"""Answers that are too much: announced, endless, compressed; none is taken in."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from longhaul_gpuhealth.adapters.scraper import CHUNK_BYTES, ScrapeError, ScrapeFault, Scraper, open_session
from longhaul_gpuhealth.domain.exposition import PageReader

MAXIMUM_BYTES = 1 << 20
HUGE_BYTES = 100 << 20
TEXT = {"Content-Type": "text/plain; version=0.0.4"}


class Server:
    """Counts what it could send."""

    def __init__(self) -> None:
        self.sent = 0
        self.url = ""

    async def huge(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={**TEXT, "Content-Length": str(HUGE_BYTES)})
        return await self._send(request, response, HUGE_BYTES)

    async def chunked(self, request: web.Request) -> web.StreamResponse:
        return await self._send(request, web.StreamResponse(headers=TEXT), HUGE_BYTES)

    async def _send(self, request: web.Request, response: web.StreamResponse, size: int) -> web.StreamResponse:
        await response.prepare(request)
        line = b"# " + b"x" * (CHUNK_BYTES - 3) + b"\n"
        while self.sent < size:
            await response.write(line)
            self.sent += len(line)
            await asyncio.sleep(0)
        return response

    async def bomb(self, request: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(b"\n" * HUGE_BYTES, 1), headers={**TEXT, "Content-Encoding": "gzip"})

    async def latin(self, request: web.Request) -> web.Response:
        return web.Response(body="# Gerät\n".encode("latin-1"), headers=TEXT)

    async def elsewhere(self, request: web.Request) -> web.Response:
        raise web.HTTPFound("/chunked")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    served = Server()
    application = web.Application()
    names = ("huge", "chunked", "bomb", "latin", "elsewhere")
    application.add_routes([web.get(f"/{name}", getattr(served, name)) for name in names])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=0.1).start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield served
    await runner.cleanup()


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("huge", ScrapeFault.TOO_LARGE),
        ("chunked", ScrapeFault.TOO_LARGE),
        ("bomb", ScrapeFault.MALFORMED),
        ("latin", ScrapeFault.MALFORMED),
        ("elsewhere", ScrapeFault.STATUS),
    ],
)
async def test_answer_that_is_no_page_is_refused_unread(server: Server, path: str, fault: ScrapeFault) -> None:
    async with open_session() as session:
        with pytest.raises(ScrapeError) as caught:
            await Scraper(session, 30.0, MAXIMUM_BYTES).scrape(f"{server.url}/{path}", PageReader())
    assert caught.value.fault is fault
    assert server.sent < HUGE_BYTES / 4, "the answer was cut off"


async def test_exporter_that_is_not_there_is_told_apart(server: Server) -> None:
    async with open_session() as session:
        with pytest.raises(ScrapeError) as caught:
            await Scraper(session, 5.0, MAXIMUM_BYTES).scrape("http://127.0.0.1:1/metrics", PageReader())
    assert caught.value.fault is ScrapeFault.UNREACHABLE
