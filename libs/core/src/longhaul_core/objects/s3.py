"""An object store in a bucket of any S3, through the `minio` client."""

import hashlib
import io
import re
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from minio import Minio
from minio.deleteobjects import DeleteObject
from minio.error import MinioException

from longhaul_core.errors import AlreadyExists, FailedPrecondition, Internal, InvalidArgument, NotFound, Unavailable
from longhaul_core.objects.durable import os_errors
from longhaul_core.objects.keys import check_key, check_prefix
from longhaul_core.objects.location import S3Location
from longhaul_core.objects.s3_client import connect, put_if_absent
from longhaul_core.objects.s3_errors import s3_errors, status_and_code
from longhaul_core.objects.s3_streams import PART_BYTES, PartWriter, RangeReader, describe, read_range, read_range_into
from longhaul_core.objects.store import ObjectInfo, ObjectWriter

_READ_BUFFER_BYTES = 8 << 20
_COPY_BYTES = 8 << 20
_PROBE_WRITERS = 4
_NOT_IMPLEMENTED = 501
_READ_ATTEMPTS = 3
_MD5_TAG = re.compile("[0-9a-f]{32}")


class S3Store:
    """Objects below a prefix of a bucket.

    Uploads in parts that a killed writer left are invisible; let a lifecycle rule of the bucket end them.
    """

    def __init__(
        self, client: Minio, location: S3Location, *, conditional_writes: bool, part_bytes: int = PART_BYTES
    ) -> None:
        self._client = client
        self._bucket = location.bucket
        self._prefix = location.prefix
        self._conditional_writes = conditional_writes
        self._part_bytes = part_bytes

    @classmethod
    def open(cls, location: S3Location, *, part_bytes: int = PART_BYTES) -> "S3Store":
        """Connect, check that the bucket takes writes, and find out whether its conditional writes hold.

        Raises:
            FailedPrecondition: no such bucket.
            PermissionDenied, Unauthenticated: wrong credentials, or none.
            Unavailable: no answer.
        """
        return cls(connect(location), location, conditional_writes=_probe(location), part_bytes=part_bytes)

    @property
    def conditional_writes(self) -> bool:
        """As probed by `open`: stores are known that ignore the condition and let every writer win."""
        return self._conditional_writes

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = False) -> ObjectInfo:
        """See `ObjectStore.put`."""
        if if_absent:
            return self._put_if_absent(key, data)
        with self.open_write(key) as out:
            out.write(data)
        return out.commit()

    def put_file(self, key: str, path: Path, *, if_absent: bool = False) -> ObjectInfo:
        """See `ObjectStore.put_file`; a conditional one is a single request and goes through memory."""
        if if_absent:
            with os_errors(path):
                data = path.read_bytes()
            return self._put_if_absent(key, data)
        with os_errors(path), path.open("rb") as source, self.open_write(key) as out:
            while block := source.read(_COPY_BYTES):
                out.write(block)
        return out.commit()

    def open_write(self, key: str) -> ObjectWriter:
        """See `ObjectStore.open_write`."""
        return PartWriter(self._client, self._bucket, self._name(key), key, self._part_bytes)

    def get(self, key: str) -> bytes:
        """See `ObjectStore.get`; compared with the store's tag where that is the MD5: not of objects of many parts."""
        info = self.stat(key)
        for _ in range(_READ_ATTEMPTS):
            data = read_range(self._client, self._bucket, self._name(key), 0, info.size, info.etag)
            if not _MD5_TAG.fullmatch(info.etag) or hashlib.md5(data, usedforsecurity=False).hexdigest() == info.etag:
                return data
        raise Unavailable(
            f"Object {key!r} came with other bytes than the store says it has, {_READ_ATTEMPTS} times.",
            reason="OBJECT_CORRUPT",
            metadata={"key": key},
            action="Look at the store and at what lies between it and this machine.",
        )

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See `ObjectStore.get_range`."""
        return read_range(self._client, self._bucket, self._name(key), offset, length)

    def read_into(self, key: str, offset: int, buffer: memoryview) -> int:
        """See `ObjectStore.read_into`; one request."""
        return read_range_into(self._client, self._bucket, self._name(key), offset, buffer)

    def open_read(self, key: str) -> io.BufferedReader:
        """See `ObjectStore.open_read`; raises Aborted (OBJECT_CHANGED) if the object is replaced under it."""
        info = self.stat(key)
        raw = RangeReader(self._client, self._bucket, self._name(key), info.size, info.etag)
        return io.BufferedReader(raw, _READ_BUFFER_BYTES)

    def stat(self, key: str) -> ObjectInfo:
        """See `ObjectStore.stat`."""
        return describe(self._client, self._bucket, self._name(key), key)

    def exists(self, key: str) -> bool:
        """See `ObjectStore.exists`."""
        try:
            self.stat(key)
        except NotFound:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.list`."""
        full = self._prefix + check_prefix(prefix)
        with s3_errors(prefix):
            for found in self._client.list_objects(self._bucket, prefix=full, recursive=True):
                key = (found.object_name or "").removeprefix(self._prefix)
                if not found.is_dir and not key.startswith(".") and key:
                    modified = found.last_modified or datetime.now(UTC)
                    yield ObjectInfo(key, found.size or 0, modified, found.etag or "")

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        try:
            with s3_errors(key):
                self._client.remove_object(self._bucket, self._name(key))
        except NotFound:
            return

    def delete_prefix(self, prefix: str) -> int:
        """See `ObjectStore.delete_prefix`."""
        if not prefix:
            raise InvalidArgument("A prefix to delete must not be empty.", reason="INVALID_OBJECT_KEY")
        names = [self._name(info.key) for info in self.list(prefix)]
        with s3_errors(prefix):
            failures = list(self._client.remove_objects(self._bucket, map(DeleteObject, names)))
        if failures:
            raise Internal(
                f"{len(failures)} of {len(names)} objects below {prefix!r} were not deleted: {failures[0].message}.",
                reason="OBJECT_STORE_IO",
                metadata={"key": failures[0].name or "", "s3_code": failures[0].code or ""},
            )
        return len(names)

    def local_path(self, key: str) -> Path | None:
        """None: a bucket has no files."""
        check_key(key)
        return None

    def _put_if_absent(self, key: str, data: bytes | memoryview) -> ObjectInfo:
        name = self._name(key)
        if not self._conditional_writes:
            raise FailedPrecondition(
                f"The object store has no conditional writes, which the creation of {key!r} needs.",
                reason="NO_CONDITIONAL_WRITES",
                metadata={"key": key},
                action="Let the service's database decide who commits, or use a store that honours If-None-Match.",
            )
        with s3_errors(key):
            put_if_absent(self._client, self._bucket, name, bytes(data))
        return self.stat(key)

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)


@cache
def _probe(location: S3Location) -> bool:
    """Find out once a process whether conditional writes hold; workers open the same store for each task."""
    client = connect(location)
    name = f"{location.prefix}.longhaul/probe-{uuid.uuid4().hex}"
    with s3_errors(name):
        conditional = _race(client, location.bucket, name)
        client.remove_object(location.bucket, name)
    return conditional


def _race(client: Minio, bucket: str, name: str) -> bool:
    """Tell whether of several simultaneous conditional creates exactly one wins, and a late one loses."""
    barrier = threading.Barrier(_PROBE_WRITERS)

    def create(writer: int) -> bool:
        if writer:
            barrier.wait()
        try:
            put_if_absent(client, bucket, name, str(writer).encode())
        except AlreadyExists:
            return False
        except MinioException as error:
            if status_and_code(error)[0] != _NOT_IMPLEMENTED:
                raise
        return True

    with ThreadPoolExecutor(_PROBE_WRITERS) as pool:
        winners = sum(pool.map(create, range(1, _PROBE_WRITERS + 1)))
    return winners == 1 and not create(0)
