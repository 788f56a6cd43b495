"""Sources in an object store: listed by prefix, and fetched to a temporary file when a worker reads one."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urldefrag, urlsplit

from longhaul_core.errors import FailedPrecondition, NotFound
from longhaul_core.objects import ObjectStore, open_source

from longhaul_ingest.domain.planning import SourceFile

SCHEME: Final = "s3://"
COPY_BYTES: Final = 8 << 20


def is_remote(location: str) -> bool:
    """Whether a location or path is in an object store."""
    return location.startswith(SCHEME)


def list_objects(location: str) -> Iterator[SourceFile]:
    """The object at `s3://bucket/prefix?endpoint=…`, or all objects below it, with paths that `fetch` understands."""
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
    base, key = urldefrag(path)
    store, key = _source(base), unquote(key)
    copy = _folder() / f"{quote(key, safe='')[-100:]}-{quote(version, safe='')[-64:]}"
    if copy.exists():
        return copy
    for older in _folder().iterdir():
        older.unlink()
    _check_version(store, key, version)
    partial = copy.with_suffix(".partial")
    with store.open_read(key) as source, partial.open("wb") as target:
        shutil.copyfileobj(source, target, COPY_BYTES)
    partial.rename(copy)
    return copy


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
