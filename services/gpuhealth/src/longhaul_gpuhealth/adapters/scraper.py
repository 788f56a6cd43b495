"""Scrapes of exporters, guarded against answers that are slow, huge, endless or something else."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum

import aiohttp

from longhaul_gpuhealth.domain.exposition import MalformedPageError, Page, PageReader

ACCEPTED_TYPES = ("text/plain", "application/openmetrics-text")
CHUNK_BYTES = 1 << 16
_HEADERS = {"Accept": "text/plain;version=0.0.4", "Accept-Encoding": "identity", "User-Agent": "longhaul-gpuhealth"}


class ScrapeFault(StrEnum):
    """What was wrong with a scrape."""

    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    STATUS = "status"
    CONTENT_TYPE = "content_type"
    TOO_LARGE = "too_large"
    MALFORMED = "malformed"


class ScrapeError(Exception):
    """A scrape that gave no page."""

    def __init__(self, fault: ScrapeFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Scraper:
    """Fetches and reads pages; `maximum_bytes` is far above what 16 GPUs with MIG give (about 1 MiB)."""

    session: aiohttp.ClientSession
    timeout_seconds: float
    maximum_bytes: int

    async def scrape(self, url: str, reader: PageReader) -> Page:
        """One page. Raises `ScrapeError`."""
        try:
            async with asyncio.timeout(self.timeout_seconds):
                body = await self._fetch(url)
        except TimeoutError:
            raise ScrapeError(ScrapeFault.TIMEOUT, f"no full answer within {self.timeout_seconds:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ScrapeError(ScrapeFault.UNREACHABLE, f"{type(error).__name__}: {error}") from None
        try:
            return reader.read(body.decode())
        except (MalformedPageError, UnicodeDecodeError) as error:
            raise ScrapeError(ScrapeFault.MALFORMED, str(error)) from None

    async def _fetch(self, url: str) -> bytes:
        async with self.session.get(url, headers=_HEADERS, allow_redirects=False) as response:
            if response.status != 200:
                raise ScrapeError(ScrapeFault.STATUS, f"HTTP status {response.status}")
            if response.content_type not in ACCEPTED_TYPES:
                raise ScrapeError(ScrapeFault.CONTENT_TYPE, f"content type {response.content_type}")
            if (response.content_length or 0) > self.maximum_bytes:
                raise ScrapeError(ScrapeFault.TOO_LARGE, f"more than {self.maximum_bytes} bytes")
            body = bytearray()
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                body += chunk
                if len(body) > self.maximum_bytes:
                    raise ScrapeError(ScrapeFault.TOO_LARGE, f"more than {self.maximum_bytes} bytes")
            return bytes(body)


def open_session() -> aiohttp.ClientSession:
    """A session with kept connections to any number of exporters, never through a proxy."""
    connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=60)
    return aiohttp.ClientSession(
        connector=connector, timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False, trust_env=False
    )
