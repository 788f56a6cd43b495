"""Where an object store is: `file:///path` or `s3://bucket/prefix?endpoint=host:port&region=...&secure=false`."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from longhaul_core.errors import InvalidArgument
from longhaul_core.objects.keys import check_prefix

_TRUTH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_OPTIONS = {"endpoint", "region", "secure"}


@dataclass(frozen=True, slots=True)
class S3Location:
    """A bucket and the prefix below which all keys of this store lie ("" or ending in "/")."""

    bucket: str
    prefix: str
    endpoint: str
    region: str
    secure: bool


def parse_location(url: str) -> Path | S3Location:
    """Parse the URL of an object store. Raises InvalidArgument."""
    if url.startswith("file:///"):
        return Path(url.removeprefix("file://"))  # taken as written, so that any folder name works unquoted
    parts = urlsplit(url)
    if parts.scheme == "s3" and parts.netloc:
        return _parse_s3(url, parts.netloc, unquote(parts.path), dict(parse_qsl(parts.query)))
    raise _invalid(url, "is neither file:///absolute/path nor s3://bucket/prefix")


def _parse_s3(url: str, bucket: str, path: str, options: dict[str, str]) -> S3Location:
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise _invalid(url, f"has the unknown option {unknown[0]!r} (known: {', '.join(sorted(_OPTIONS))})")
    secure = _TRUTH.get(options.get("secure", "true").lower())
    if secure is None:
        raise _invalid(url, "has a value of 'secure' that is neither true nor false")
    prefix = check_prefix(path.strip("/"))
    return S3Location(
        bucket=bucket,
        prefix=f"{prefix}/" if prefix else "",
        endpoint=options.get("endpoint", "s3.amazonaws.com"),
        region=options.get("region", "us-east-1"),
        secure=secure,
    )


def _invalid(url: str, problem: str) -> InvalidArgument:
    return InvalidArgument(
        f"The object store URL {url!r} {problem}.",
        reason="INVALID_OBJECT_STORE_URL",
        violations=[("object_store_url", problem)],
        action="Set LONGHAUL_OBJECT_STORE_URL to file:///path or s3://bucket/prefix?endpoint=host:port.",
    )
