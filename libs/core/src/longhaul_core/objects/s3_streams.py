"""Reading an S3 object by ranges, and writing one of unknown length in parts."""

import io
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from minio import Minio
from minio.datatypes import Part
from minio.error import MinioException
from minio.helpers import DictType
from urllib3.exceptions import HTTPError

from longhaul_core.objects.s3_errors import s3_errors, status_and_code, translate
from longhaul_core.objects.store import ObjectInfo, ObjectWriter

PART_BYTES = 32 << 20  # times the 10,000 parts of S3: objects up to 312 GiB; all equal, as some stores demand
_UPLOADS = 3  # in flight; a writer holds at most one part more in memory
_RANGE_NOT_SATISFIABLE = 416
_READ_ATTEMPTS = 4
_STREAM_BYTES = 1 << 20


def read_range(client: Minio, bucket: str, name: str, offset: int, length: int, etag: str = "") -> bytes:
    """GET a range, empty past the end. With `etag`, raises Aborted where the object was replaced."""
    found = bytearray(max(0, length))
    count = read_range_into(client, bucket, name, offset, memoryview(found), etag)
    return bytes(memoryview(found)[:count])


def read_range_into(client: Minio, bucket: str, name: str, offset: int, buffer: memoryview, etag: str = "") -> int:
    """GET a range into memory and return its length; otherwise as `read_range`.

    An answer that is cut is read on from where it ended.
    """
    filled = 0
    for attempt in range(_READ_ATTEMPTS):
        try:
            for count in _blocks(client, bucket, name, offset + filled, buffer[filled:], etag):
                filled += count
            break
        except HTTPError as error:
            if attempt == _READ_ATTEMPTS - 1:
                raise translate(error, name) from error
    return filled


def _blocks(client: Minio, bucket: str, name: str, offset: int, buffer: memoryview, etag: str) -> Iterator[int]:
    """Fill the buffer by one request; yields the size of each block. Raises HTTPError where the answer is cut."""
    if not len(buffer):
        return
    headers: DictType = {"If-Match": f'"{etag}"'} if etag else {}
    with s3_errors(name):
        try:
            response = client.get_object(bucket, name, offset=offset, length=len(buffer), request_headers=headers)
        except MinioException as error:
            if status_and_code(error)[0] == _RANGE_NOT_SATISFIABLE:
                return
            raise
    filled = 0
    try:
        for block in response.stream(_STREAM_BYTES, decode_content=False):
            taken = block[: len(buffer) - filled]
            buffer[filled : filled + len(taken)] = taken
            filled += len(taken)
            yield len(taken)
    finally:
        response.close()
        response.release_conn()


class RangeReader(io.RawIOBase):
    """A seekable view of one version of an object; each read is a request, so put a buffer before it."""

    def __init__(self, client: Minio, bucket: str, name: str, size: int, etag: str) -> None:
        super().__init__()
        self._client = client
        self._bucket = bucket
        self._name = name
        self._size = size
        self._etag = etag
        self._offset = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move; no request."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self._size}[whence]
        self._offset = max(0, base + offset)
        return self._offset

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Fill the buffer with one request."""
        wanted = memoryview(buffer)[: max(0, self._size - self._offset)]
        count = read_range_into(self._client, self._bucket, self._name, self._offset, wanted, self._etag)
        self._offset += count
        return count

    def readall(self) -> bytes:
        """Read the rest with one request."""
        wanted = max(0, self._size - self._offset)
        data = read_range(self._client, self._bucket, self._name, self._offset, wanted, self._etag)
        self._offset += len(data)
        return data


class PartWriter(ObjectWriter):
    """Uploads parts in the background; one part or less becomes a plain PUT. Nothing is visible before the end."""

    def __init__(self, client: Minio, bucket: str, name: str, key: str, part_bytes: int) -> None:
        super().__init__(key)
        self._client = client
        self._bucket = bucket
        self._name = name
        self._part_bytes = part_bytes
        self._buffer = bytearray()
        self._size = 0
        self._upload_id = ""
        self._pool = ThreadPoolExecutor(_UPLOADS, thread_name_prefix="longhaul-upload")
        self._parts: list[Future[str]] = []

    def write(self, data: bytes | memoryview, /) -> int:  # type: ignore[override]
        """Buffer, and upload each part that is full."""
        view = memoryview(data).cast("B")
        self._size += len(view)
        for start in range(0, len(view), self._part_bytes):
            self._buffer += view[start : start + self._part_bytes]
            if len(self._buffer) > self._part_bytes:
                self._upload(bytes(self._buffer[: self._part_bytes]))
                del self._buffer[: self._part_bytes]
        return len(view)

    def tell(self) -> int:
        """Bytes written."""
        return self._size

    def _upload(self, data: bytes) -> None:
        with s3_errors(self.key):
            if not self._upload_id:
                self._upload_id = self._client._create_multipart_upload(self._bucket, self._name, {})
            if len(self._parts) >= _UPLOADS:
                self._parts[-_UPLOADS].result()
            number = len(self._parts) + 1
            self._parts.append(
                self._pool.submit(
                    self._client._upload_part, self._bucket, self._name, data, {}, self._upload_id, number
                )
            )

    def _publish(self) -> ObjectInfo:
        try:
            if self._upload_id:
                self._upload(bytes(self._buffer))
                with s3_errors(self.key):
                    parts = [Part(number, future.result()) for number, future in enumerate(self._parts, 1)]
                    self._client._complete_multipart_upload(self._bucket, self._name, self._upload_id, parts)
            else:
                with s3_errors(self.key):
                    self._client._put_object(self._bucket, self._name, bytes(self._buffer), {})
        except BaseException:
            self._discard()
            raise
        self._pool.shutdown()
        return describe(self._client, self._bucket, self._name, self.key)

    def _discard(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        if self._upload_id:
            with suppress(
                MinioException, HTTPError, OSError
            ):  # what is left is invisible, and the bucket's rules end it
                self._client._abort_multipart_upload(self._bucket, self._name, self._upload_id)
            self._upload_id = ""


def describe(client: Minio, bucket: str, name: str, key: str) -> ObjectInfo:
    """HEAD. Raises NotFound."""
    with s3_errors(key):
        found = client.stat_object(bucket, name)
    assert found.size is not None
    assert found.last_modified is not None
    return ObjectInfo(key, found.size, found.last_modified, found.etag or "")
