"""The S3 client of one bucket: connection, credentials, and the conditional create."""

import ssl
import time
import uuid
from typing import Any

import certifi
import urllib3
from minio import Minio
from minio.credentials.providers import (
    AWSConfigProvider,
    ChainedProvider,
    EnvAWSProvider,
    EnvMinioProvider,
    IamAwsProvider,
)
from minio.error import MinioException

from longhaul_core.errors import Aborted
from longhaul_core.objects.location import S3Location
from longhaul_core.objects.s3_errors import exists_already, s3_errors, status_and_code

_CONNECT_SECONDS = 10
_READ_SECONDS = 60
_CONNECTIONS = 16
_CONFLICT_RETRIES = 6
_CONFLICT = 409
_PRECONDITION_FAILED = 412
_WRITER_HEADER = "x-amz-meta-longhaul-writer"


def connect(location: S3Location) -> Minio:
    """Make a client. Credentials come from where AWS tools look: environment, file, and on AWS the instance's role."""
    providers: list[Any] = [EnvAWSProvider(), EnvMinioProvider(), AWSConfigProvider()]
    if location.endpoint.endswith("amazonaws.com"):
        providers.append(IamAwsProvider())
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())  # beside the system's, which slim images lack
    pool = urllib3.PoolManager(
        maxsize=_CONNECTIONS,
        timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS),
        retries=urllib3.Retry(total=5, connect=2, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504]),
        ssl_context=context,
    )
    return Minio(
        location.endpoint,
        region=location.region,
        secure=location.secure,
        http_client=pool,
        credentials=ChainedProvider(providers),
    )


def put_if_absent(client: Minio, bucket: str, name: str, data: bytes) -> None:
    """PUT with `If-None-Match: *`. Raises AlreadyExists where another writer was first.

    412 is a loss, 409 asks for a retry. The client may have repeated a request whose first answer got lost, and so
    lose against itself: the object carries a mark of its writer, by which that is seen.
    """
    mark = uuid.uuid4().hex
    for attempt in range(_CONFLICT_RETRIES):
        try:
            client._put_object(bucket, name, data, {"If-None-Match": "*", _WRITER_HEADER: mark})
        except MinioException as error:
            status = status_and_code(error)[0]
            if status == _PRECONDITION_FAILED:
                if _writer_of(client, bucket, name) == mark:
                    return
                raise exists_already(name) from error
            if status != _CONFLICT:
                raise
            time.sleep(0.05 * 2**attempt)
        else:
            return
    raise Aborted(f"Writers of {name!r} keep colliding.", reason="OBJECT_WRITE_CONFLICT", metadata={"key": name})


def _writer_of(client: Minio, bucket: str, name: str) -> str:
    with s3_errors(name):
        metadata = client.stat_object(bucket, name).metadata
    return str(metadata.get(_WRITER_HEADER, "")) if metadata else ""
