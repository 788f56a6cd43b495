"""Errors of the S3 client and its HTTP layer, turned into longhaul's once."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import HTTPError

from longhaul_core.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    Internal,
    LonghaulError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)

_DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
_FULL = {"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage", "QuotaExceeded"}
_BUSY = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "XMinioServerNotInitialized"}
_SERVER_ERROR = 500
_INSUFFICIENT_STORAGE = 507


@contextmanager
def s3_errors(key: str) -> Iterator[None]:
    """Translate what the client raises while it works on `key`."""
    try:
        yield
    except (MinioException, HTTPError, OSError) as error:
        raise translate(error, key) from error
    except ValueError as error:  # how the client says that no credentials were found
        raise Unauthenticated(
            f"No credentials for the object store: {error}.",
            reason="OBJECT_STORE_CREDENTIALS_MISSING",
            action="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        ) from error


def translate(error: Exception, key: str) -> LonghaulError:
    """Return the longhaul error that says what `error` says about `key`."""
    if isinstance(error, HTTPError | OSError):
        return _unavailable(key, error)
    return _from_code(*status_and_code(error), error, key)


def status_and_code(error: Exception) -> tuple[int, str]:
    """HTTP status and S3 code of a refusal; 0 and "" where it has none.

    The client takes an error document for one only as `application/xml`; some servers send `text/xml`.
    """
    match error:
        case S3Error():
            return error.response.status, error.code or ""
        case ServerError():
            return error.status_code, ""
        case InvalidResponseError():
            code = re.search("<Code>(\\w+)</Code>", error._body or "")
            return error._code, code[1] if code else ""
    return 0, ""


def exists_already(key: str) -> AlreadyExists:
    """Answer to a lost conditional create."""
    return AlreadyExists(f"Object {key!r} already exists.", reason="OBJECT_EXISTS", metadata={"key": key})


def _from_code(status: int, code: str, error: Exception, key: str) -> LonghaulError:
    metadata = {"key": key, "s3_code": code}
    if code in {"NoSuchKey", "NoSuchUpload"}:
        return NotFound(f"Object {key!r} is not in the store.", reason="OBJECT_NOT_FOUND", metadata=metadata)
    if code == "NoSuchBucket":
        return FailedPrecondition(
            "The bucket of the object store does not exist.",
            reason="BUCKET_NOT_FOUND",
            metadata=metadata,
            action="Create the bucket, or correct LONGHAUL_OBJECT_STORE_URL.",
        )
    if code == "RequestTimeTooSkewed":
        return FailedPrecondition(
            "The object store refuses requests of this machine: its clock is wrong.",
            reason="CLOCK_SKEW",
            metadata=metadata,
            action="Set the clock of this machine, or of the store's, by NTP.",
        )
    if code in _DENIED:
        return PermissionDenied(
            f"The object store refuses access to {key!r}: {code}.",
            reason="OBJECT_STORE_PERMISSION",
            metadata=metadata,
            action="Check the key's policy for this bucket and prefix.",
        )
    if code == "PreconditionFailed":
        return Aborted(f"Object {key!r} changed.", reason="OBJECT_CHANGED", metadata=metadata)
    if code in _FULL or status == _INSUFFICIENT_STORAGE:
        return _full(key, error)
    if code in _BUSY or status >= _SERVER_ERROR:
        return _unavailable(key, error)
    return Internal(f"Object store, key {key!r}: {error}", reason="OBJECT_STORE_IO", metadata=metadata)


def _full(key: str, error: Exception) -> ResourceExhausted:
    return ResourceExhausted(
        f"The object store has no space left for {key!r}: {error}",
        reason="DISK_FULL",
        metadata={"key": key},
        action="Free space in the bucket or raise its quota; what was committed is intact.",
    )


def _unavailable(key: str, error: Exception) -> Unavailable:
    return Unavailable(
        f"The object store does not answer for {key!r}: {error}",
        reason="OBJECT_STORE_UNAVAILABLE",
        metadata={"key": key},
    )
