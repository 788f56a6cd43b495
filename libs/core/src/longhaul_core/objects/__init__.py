"""Object store: Protocol, folder, any S3."""

from pathlib import Path

from longhaul_core.objects.filesystem import FilesystemStore
from longhaul_core.objects.location import S3Location, parse_location
from longhaul_core.objects.store import ObjectInfo, ObjectStore, ObjectWriter

__all__ = [
    "FilesystemStore",
    "ObjectInfo",
    "ObjectStore",
    "ObjectWriter",
    "S3Location",
    "open_source",
    "open_store",
    "parse_location",
]


def open_store(url: str) -> ObjectStore:
    """Open the store at `url`; creates the folder, probes the bucket. The S3 client is imported only for S3."""
    location = parse_location(url)
    if isinstance(location, Path):
        return FilesystemStore.open(location)
    from longhaul_core.objects.s3 import S3Store

    return S3Store.open(location)


def open_source(url: str) -> ObjectStore:
    """Open a bucket that is only read, such as one of source data: nothing is probed or written there."""
    location = parse_location(url)
    if isinstance(location, Path):
        return FilesystemStore.open(location)
    from longhaul_core.objects.s3 import S3Store
    from longhaul_core.objects.s3_client import connect

    return S3Store(connect(location), location, conditional_writes=False)
