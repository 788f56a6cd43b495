"""Sources on web servers: what is there, and a verified copy. Busy servers are asked again, cut answers resumed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import unquote, urlsplit

import urllib3
from longhaul_core.errors import FailedPrecondition, LonghaulError, NotFound, PermissionDenied, Unavailable
from urllib3.exceptions import HTTPError

from longhaul_ingest.domain.planning import SourceFile

SCHEMES: Final = ("http://", "https://")
TIMEOUT: Final = urllib3.Timeout(connect=10.0, read=60.0)
ATTEMPTS: Final = 6
FIRST_DELAY_SECONDS: Final = 0.5
COPY_BYTES: Final = 1 << 20
BUSY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
GONE: Final = frozenset({404, 410})
PARTIAL_CONTENT: Final = 206
FIRST_REDIRECT: Final = 300


def is_web(location: str) -> bool:
    """Whether a location is on a web server."""
    return location.startswith(SCHEMES)


def describe(location: str) -> SourceFile:
    """The file at an address: its size, and a version that changes when it does.

    Raises:
        NotFound, PermissionDenied, Unavailable: the server does not give it.
    """
    headers = _request("HEAD", location, {}).headers
    size = int(headers.get("Content-Length") or 0)
    modified = headers.get("Last-Modified")
    version = headers.get("ETag") or (str(parsedate_to_datetime(modified).timestamp()) if modified else str(size))
    label = unquote(urlsplit(location).path).lstrip("/") or location
    return SourceFile(location, label, size, version)


def download(location: str, version: str, target: Path) -> None:
    """Copy what is at an address to a file.

    Raises:
        FailedPrecondition: it is not the version that was planned (SOURCE_CHANGED).
        NotFound, PermissionDenied, Unavailable: the server does not give it, or not all of it.
    """
    expected = describe(location)
    if version and expected.version != version:
        raise _changed(location)
    with target.open("wb") as file:
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(FIRST_DELAY_SECONDS * 2 ** (attempt - 1))
            if _append(location, expected, file):
                return
    raise Unavailable(
        f"The server of {location} cut the connection {ATTEMPTS} times.",
        reason="SOURCE_INCOMPLETE",
        metadata={"url": location, "bytes": str(target.stat().st_size), "expected": str(expected.size)},
        action="Run again; what was read stays.",
    )


def _append(location: str, expected: SourceFile, file: BinaryIO) -> bool:
    """Read on where the file ends; tells whether it is whole now."""
    begun = file.tell()
    response = _request("GET", location, {"Range": f"bytes={begun}-"} if begun else {}, stream=True)
    try:
        if begun and response.status != PARTIAL_CONTENT:  # it does not resume: from the beginning
            file.seek(0)
            file.truncate()
        if (found := response.headers.get("ETag")) and found != expected.version:
            raise _changed(location)
        for block in response.stream(COPY_BYTES, decode_content=False):
            file.write(block)
    except HTTPError:
        return False
    finally:
        response.release_conn()
    return not expected.size or file.tell() == expected.size


def _request(method: str, location: str, headers: Mapping[str, str], *, stream: bool = False) -> Any:
    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(FIRST_DELAY_SECONDS * 2 ** (attempt - 1))
        try:
            response = _pool().request(
                method, location, headers={**headers, "Accept-Encoding": "identity"}, preload_content=not stream
            )
        except HTTPError as error:
            problem = str(error)
            continue
        if response.status < FIRST_REDIRECT:
            return response
        response.release_conn()
        if response.status not in BUSY:
            raise _refused(location, response.status)
        problem = f"HTTP status {response.status}"
    raise Unavailable(
        f"{location} cannot be read after {ATTEMPTS} attempts: {problem}.",
        reason="SOURCE_UNREACHABLE",
        metadata={"url": location},
        action="See whether the server is up, and run again.",
    )


def _refused(location: str, status: int) -> LonghaulError:
    metadata = {"url": location, "status": str(status)}
    if status in GONE:
        return NotFound(
            f"{location} is not there (HTTP status {status}).",
            reason="SOURCE_NOT_FOUND",
            metadata=metadata,
            action="Correct the address in the recipe.",
        )
    return PermissionDenied(
        f"{location} is refused (HTTP status {status}).",
        reason="SOURCE_UNREADABLE",
        metadata=metadata,
        action="Correct the address, or take it out of the source.",
    )


def _changed(location: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{location} was changed while it was read.",
        reason="SOURCE_CHANGED",
        metadata={"url": location},
        action="Run again once it no longer changes.",
    )


@lru_cache(maxsize=1)
def _pool() -> urllib3.PoolManager:
    return urllib3.PoolManager(timeout=TIMEOUT, retries=urllib3.Retry(0, redirect=5, raise_on_redirect=False))
