"""Sources in an S3 that answers 503, cuts answers or changes bytes: the undisturbed dataset, or a clear error."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from longhaul.common.v1 import resource_pb2
from longhaul.ingest.v1 import ingestion_pb2
from longhaul_core.objects.location import S3Location
from longhaul_core.objects.s3_client import connect as connect_s3

from tests.integration.faulty_s3 import Fault, FaultyS3, faulty_s3
from tests.integration.ingest.conftest import Serve
from tests.integration.ingest.support import Client, http, page, source, spec, write_warc
from tests.integration.ingest.test_s3_sources import BUCKET, endpoint

__all__ = ["endpoint"]  # a fixture

PAGES = 30


@pytest.fixture(scope="module")
def server(endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FaultyS3, str]]:
    """The proxy before a bucket with one archive."""
    crawl = write_warc(
        tmp_path_factory.mktemp("crawl") / "a.warc.gz", {f"http://a/{n}": http(page(n)) for n in range(PAGES)}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "access")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        client = connect_s3(S3Location(BUCKET, "", endpoint, "us-east-1", secure=False))
        if not client.bucket_exists(BUCKET):
            client.make_bucket(BUCKET)
        for name in ("well", *(fault.name for fault in Fault)):  # a worker keeps what it has fetched
            client.fput_object(BUCKET, f"{name}/docs.warc.gz", str(crawl))
        with faulty_s3(endpoint) as (proxy, address):
            yield proxy, address


def crawl_at(address: str, name: str) -> ingestion_pb2.IngestionSpec:
    found = source("crawl", "WARC")
    found.locations.append(f"s3://{BUCKET}/{name}?endpoint={address}&secure=false")
    return spec(found)


async def test_source_is_read_whole_whatever_is_wrong_with_an_answer(
    server: tuple[FaultyS3, str], client: Client
) -> None:
    proxy, address = server
    read = []
    for name, fault in (("well", None), *((fault.name, fault) for fault in Fault)):
        proxy.plan(*([fault] if fault else []), part="docs.warc.gz", times=2)
        done = await client.run(name.lower(), crawl_at(address, name))
        assert done.status.state == resource_pb2.JOB_STATE_SUCCEEDED, (fault, done.status.reason)
        assert proxy.fired.total() == (2 if fault else 0)
        manifest = await client.manifest(name.lower())
        assert manifest.counts == {"read": PAGES, "kept": PAGES, "dropped": 0, "failed": 0}
        read.append(await client.rows(name.lower()))
    assert read.count(read[0]) == len(read)


@pytest.mark.parametrize("fault", list(Fault))
async def test_source_that_never_comes_whole_fails_by_name_and_commits_nothing(
    server: tuple[FaultyS3, str], serve: Serve, fault: Fault
) -> None:
    proxy, address = server
    proxy.plan(fault, part="docs.warc.gz")
    async with serve(shard_attempts=1) as client:
        done = await client.run("docs", crawl_at(address, "well"))

        assert done.status.state == resource_pb2.JOB_STATE_FAILED
        assert "docs.warc.gz" in done.status.reason.message
        assert done.status.reason.action
        assert proxy.fired[fault] >= 1
        assert not [found.key for found in client.store.list() if found.key.endswith("manifest.json")]
