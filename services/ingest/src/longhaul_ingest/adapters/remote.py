"""Sources in an object store or on the web: listed, and fetched to a temporary file when a worker reads one."""

from __future__ import annotations

import atexit
import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urldefrag, urlsplit

from longhaul_core.errors import FailedPrecondition, NotFound, Unavailable
from longhaul_core.objects import ObjectStore, open_source

from longhaul_ingest.adapters.web import describe, download, is_web
from longhaul_ingest.domain.planning import SourceFile

SCHEME: Final = "s3://"
COPY_BYTES: Final = 8 << 20
MD5_TAG: Final = re.compile(r"[0-9a-f]{32}")


def is_remote(location: str) -> bool:
    """Whether a location or path is elsewhere than on this machine."""
    return location.startswith(SCHEME) or is_web(location)


def list_objects(location: str) -> Iterator[SourceFile]:
    """The object at `s3://bucket/prefix?endpoint=…`, or all objects below it, with paths that `fetch` understands."""
    if is_web(location):
        yield describe(location)
        return
    parts = urlsplit(location)
    folder, _, leaf = unquote(parts.path).strip("/").rpartition("/")
    query = f"?{parts.query}" if parts.query else ""
    base = f"{SCHEME}{parts.netloc}/{quote(folder)}{query}"
    for found in open_source(base).list(leaf):
        if leaf in ("", found.key) or found.key.startswith(f"{leaf}/"):
            label = found.key.removeprefix(f"{leaf}/")
            yield SourceFile(f"{base}#{quote(found.key)}", label, found.size, found.etag)


def fetch(path: str, version: str) -> Path:
    """A local copy of an object, which lasts until the next one is fetched.

    Raises:
        NotFound: the object is gone (SOURCE_NOT_FOUND).
        FailedPrecondition: it is not the version that was planned (SOURCE_CHANGED).
    """
    if is_web(path):
        return _fetch_web(path, version)
    base, key = urldefrag(path)
    store, key = _source(base), unquote(key)
    copy = _copy_of(key, version)
    if copy.exists():
        return copy
    _clear()
    _check_version(store, key, version)
    partial = copy.with_suffix(".partial")
    with store.open_read(key) as source, partial.open("wb") as target:
        shutil.copyfileobj(source, target, COPY_BYTES)
    _check_content(partial, key, version)
    partial.rename(copy)
    return copy


def _fetch_web(location: str, version: str) -> Path:
    copy = _copy_of(location, version)
    if not copy.exists():
        _clear()
        partial = copy.with_suffix(".partial")
        download(location, version, partial)
        partial.rename(copy)
    return copy


def _copy_of(key: str, version: str) -> Path:
    return _folder() / f"{quote(key, safe='')[-100:]}-{quote(version, safe='')[-64:]}"


def _clear() -> None:
    for older in _folder().iterdir():
        older.unlink()


def _check_content(copy: Path, key: str, version: str) -> None:
    """Compare with the store's tag where that is the MD5 of the content: not for parts uploaded apart or encrypted."""
    tag = version.strip('"')
    if not MD5_TAG.fullmatch(tag):
        return
    with copy.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != tag:
        copy.unlink()
        raise Unavailable(
            f"Source object {key} came with other bytes than the store says it has.",
            reason="SOURCE_CORRUPT",
            metadata={"path": key, "expected": tag, "found": found},
            action="The shard is read again; if it stays so, look at the store and the network.",
        )


def _check_version(store: ObjectStore, key: str, version: str) -> None:
    try:
        found = store.stat(key)
    except NotFound as error:
        raise NotFound(
            f"Source object {key} is gone.",
            reason="SOURCE_NOT_FOUND",
            metadata={"path": key},
            action="Put the object back and run again.",
        ) from error
    if version and found.etag != version:
        raise FailedPrecondition(
            f"Source object {key} was changed while it was read.",
            reason="SOURCE_CHANGED",
            metadata={"path": key},
            action="Leave the sources alone until the ingestion has ended, and run again.",
        )


@lru_cache(maxsize=8)
def _source(base: str) -> ObjectStore:
    return open_source(base)


@lru_cache(maxsize=1)
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="longhaul-ingest-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
