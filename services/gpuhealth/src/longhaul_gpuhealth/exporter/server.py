"""HTTP side of the pretend exporter: pages of nodes, triggers of events, and every way in which exporters misbehave."""

from __future__ import annotations

import asyncio

from aiohttp import web
from longhaul_core.clock import Clock
from longhaul_core.logging import get_logger

from longhaul_gpuhealth.exporter.fleet import Fleet
from longhaul_gpuhealth.exporter.scenario import Behaviour

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
HANG_SECONDS = 3600.0
DRIP_SECONDS = 0.2
ENDLESS_CHUNK = b"# " + b"x" * 65534
MALFORMED_PAGE = '# HELP DCGM_FI_DEV_GPU_TEMP GPU temperature (in C).\nDCGM_FI_DEV_GPU_TEMP{gpu="0" 41 what\n'

log = get_logger(__name__)


class ExporterServer:
    """Serves a fleet at /nodes/<node>/metrics; POST /events/<name> lets an event begin."""

    def __init__(self, fleet: Fleet, clock: Clock) -> None:
        self._fleet = fleet
        self._clock = clock
        self._start = clock.monotonic()

    def application(self) -> web.Application:
        """The routes."""
        application = web.Application()
        application.add_routes(
            [
                web.get("/healthz", self._health),
                web.get("/nodes/{node}/metrics", self._metrics),
                web.get("/events", self._list_events),
                web.post("/events/{name}", self._trigger),
            ]
        )
        return application

    def _now(self) -> float:
        return self._clock.monotonic() - self._start

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _list_events(self, request: web.Request) -> web.Response:
        fired = {one.event.name: one.since for one in self._fleet.fired if one.since <= self._now()}
        names = [event.name for event in self._fleet.scenario.events]
        return web.json_response([{"name": name, "fired_at_seconds": fired.get(name)} for name in names])

    async def _trigger(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if not self._fleet.trigger(name, self._now()):
            known = ", ".join(event.name for event in self._fleet.scenario.events)
            return web.Response(status=404, text=f"the scenario has no event {name!r}; it has: {known}\n")
        log.info("event triggered", name=name)
        return web.json_response({"name": name, "fired_at_seconds": self._now()})

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        node = request.match_info["node"]
        if node not in self._fleet.scenario.nodes:
            return web.Response(status=404, text=f"the scenario has no node {node!r}\n")
        now = self._now()
        match self._fleet.behaviour(node, now):
            case Behaviour.HANG:
                await self._clock.sleep(HANG_SECONDS)
            case Behaviour.DROP:
                if request.transport is not None:
                    request.transport.close()
            case Behaviour.FAIL:
                return web.Response(status=500, text="failed to collect metrics\n")
            case Behaviour.HTML:
                return web.Response(text="<html>It works!</html>", content_type="text/html")
            case Behaviour.MALFORMED:
                return _page(MALFORMED_PAGE)
            case Behaviour.NAN:
                return _page(_with_nan(self._fleet.page(node, now)))
            case Behaviour.SLOW:
                return await self._drip(request, self._fleet.page(node, now))
            case Behaviour.ENDLESS:
                return await self._flood(request)
            case Behaviour.NORMAL:
                pass
        return _page(self._fleet.page(node, now))

    async def _drip(self, request: web.Request, page: str) -> web.StreamResponse:
        """A line at a time."""
        response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE})
        await response.prepare(request)
        for line in page.splitlines(keepends=True):
            await response.write(line.encode())
            await self._clock.sleep(DRIP_SECONDS)
        return response

    async def _flood(self, request: web.Request) -> web.StreamResponse:
        """As much as the reader takes."""
        response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE})
        await response.prepare(request)
        while True:
            await response.write(ENDLESS_CHUNK)
            await asyncio.sleep(0)


def _page(text: str) -> web.Response:
    return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})


def _with_nan(page: str) -> str:
    lines = (line if line.startswith("#") else line.rpartition(" ")[0] + " NaN" for line in page.splitlines())
    return "\n".join(lines) + "\n"
