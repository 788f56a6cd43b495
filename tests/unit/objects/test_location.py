"""URLs of object stores."""

from pathlib import Path

import pytest
from longhaul_core.errors import InvalidArgument
from longhaul_core.objects import S3Location, parse_location


def test_file_url_is_a_folder() -> None:
    assert parse_location("file:///data/objects") == Path("/data/objects")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket", S3Location("bucket", "", "s3.amazonaws.com", "us-east-1", True)),
        ("s3://bucket/", S3Location("bucket", "", "s3.amazonaws.com", "us-east-1", True)),
        ("s3://bucket/a/b/?region=eu-west-1", S3Location("bucket", "a/b/", "s3.amazonaws.com", "eu-west-1", True)),
        ("s3://bucket/a?endpoint=h:9000&secure=false", S3Location("bucket", "a/", "h:9000", "us-east-1", False)),
    ],
)
def test_s3_url_is_a_bucket_with_a_prefix(url: str, expected: S3Location) -> None:
    assert parse_location(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        *("", "data/objects", "file://relative", "gs://bucket", "s3://", "s3:///key", "s3://b/../c"),
        *("s3://b?endpiont=h", "s3://b?secure=maybe"),
    ],
)
def test_another_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_location(url)


def test_an_unknown_option_names_the_known_ones() -> None:
    with pytest.raises(InvalidArgument, match=r"'endpiont' \(known: endpoint, region, secure\)"):
        parse_location("s3://b?endpiont=h")
