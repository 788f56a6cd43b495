"""GPU signals from a Prometheus that scrapes the exporters already: one query for all nodes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from longhaul_gpuhealth.adapters.scraper import CHUNK_BYTES, ScrapeError, ScrapeFault
from longhaul_gpuhealth.domain.exposition import Page, Series

MAXIMUM_BYTES = 512 << 20


@dataclass(slots=True)
class _Layout:
    keys: list[str] = field(default_factory=list)
    series: tuple[Series, ...] = ()


@dataclass(slots=True)
class PrometheusSource:
    """Asks `url` for the newest sample of each wanted series and splits the answer by node.

    Prometheus leaves out series of targets that it cannot scrape, so a silent exporter is silent here too. A series
    whose labels it renamed because they clash with those of the target (`exported_gpu`) is read under its own.
    """

    session: aiohttp.ClientSession
    url: str
    node_label: str
    timeout_seconds: float
    _layouts: dict[str, _Layout] = field(default_factory=dict)

    async def pages(self, wanted: frozenset[str]) -> Mapping[str, Page]:
        """Newest values of all nodes. Raises `ScrapeError`."""
        query = '{__name__=~"' + "|".join(sorted(wanted)) + '"}'
        try:
            async with asyncio.timeout(self.timeout_seconds):
                body = await self._fetch(query)
        except TimeoutError:
            raise ScrapeError(ScrapeFault.TIMEOUT, f"no full answer within {self.timeout_seconds:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ScrapeError(ScrapeFault.UNREACHABLE, f"{type(error).__name__}: {error}") from None
        return await asyncio.to_thread(self._split, body)

    async def _fetch(self, query: str) -> bytes:
        target = f"{self.url.rstrip('/')}/api/v1/query"
        async with self.session.post(target, data={"query": query}) as response:
            if response.content_type != "application/json":
                raise ScrapeError(ScrapeFault.CONTENT_TYPE, f"content type {response.content_type}")
            body = bytearray()
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                body += chunk
                if len(body) > MAXIMUM_BYTES:
                    raise ScrapeError(ScrapeFault.TOO_LARGE, f"more than {MAXIMUM_BYTES} bytes")
            if response.status != 200:
                raise ScrapeError(ScrapeFault.STATUS, f"HTTP status {response.status}: {bytes(body[:200])!r}")
            return bytes(body)

    def _split(self, body: bytes) -> dict[str, Page]:
        try:
            answer = json.loads(body)
            results = answer["data"]["result"]
            found: dict[str, list[tuple[str, dict[str, str], float]]] = {}
            for one in results:
                labels: dict[str, str] = one["metric"]
                node = labels.get(self.node_label, "")
                if node:
                    found.setdefault(node, []).append((json.dumps(labels), labels, float(one["value"][1])))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ScrapeError(ScrapeFault.MALFORMED, f"no answer of Prometheus: {error!r}") from None
        self._layouts = {node: layout for node, layout in self._layouts.items() if node in found}
        return {node: self._page(node, rows) for node, rows in found.items()}

    def _page(self, node: str, rows: list[tuple[str, dict[str, str], float]]) -> Page:
        rows.sort(key=lambda row: row[0])
        layout = self._layouts.setdefault(node, _Layout())
        keys = [row[0] for row in rows]
        if keys != layout.keys:
            layout.keys = keys
            layout.series = tuple(_series(labels) for _, labels, _ in rows)
        return Page(layout.series, [row[2] for row in rows])


def _series(labels: Mapping[str, Any]) -> Series:
    own = {name.removeprefix("exported_"): value for name, value in labels.items() if name.startswith("exported_")}
    return Series(labels["__name__"], {**labels, **own})
