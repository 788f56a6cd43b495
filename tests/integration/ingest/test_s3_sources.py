"""Sources in an S3 bucket that the service may only read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from longhaul.common.v1 import resource_pb2
from longhaul.ingest.v1 import ingestion_pb2
from longhaul_core.errors import AlreadyExists, NotFound
from longhaul_core.objects import ObjectStore, open_source
from longhaul_core.objects.location import S3Location
from longhaul_core.objects.s3_client import connect as connect_s3
from longhaul_core.rpc.client import rpc_errors
from moto.server import ThreadedMotoServer

from tests.integration.ingest.support import Client, http, page, source, spec, write_warc

BUCKET = "crawls"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "access")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    client = connect_s3(S3Location(BUCKET, "", endpoint, "us-east-1", secure=False))
    if not client.bucket_exists(BUCKET):
        client.make_bucket(BUCKET)
    return open_source(f"s3://{BUCKET}?endpoint={endpoint}&secure=false")


def remote(name: str, kind: str, path: str, endpoint: str) -> ingestion_pb2.Source:
    found = source(name, kind)
    found.locations.append(f"s3://{BUCKET}/{path}?endpoint={endpoint}&secure=false")
    return found


async def test_objects_below_a_prefix_and_a_single_object_are_read(
    bucket: ObjectStore, client: Client, endpoint: str, tmp_path: Path
) -> None:
    crawl = write_warc(tmp_path / "a.warc.gz", {f"http://a/{n}": http(page(n)) for n in range(9)})
    bucket.put("web/a page.html", page(1))
    bucket.put("web/deep/b.html", page(2))
    bucket.put("web/picture.png", b"\x89PNG")
    bucket.put("website/other.html", page(3))
    bucket.put("crawl/docs.warc.gz", crawl.read_bytes())
    done = await client.run(
        "x", spec(remote("web", "HTML", "web", endpoint), remote("crawl", "WARC", "crawl/docs.warc.gz", endpoint))
    )
    rows = await client.rows("x")

    assert done.status.state == resource_pb2.JOB_STATE_SUCCEEDED, done.status.reason
    assert [row["url"] for row in rows if row["source"] == "web"] == ["a page.html", "deep/b.html"]
    assert done.status.documents_read == 2 + 9


async def test_missing_object_is_refused_and_changed_one_differs(
    bucket: ObjectStore, client: Client, endpoint: str
) -> None:
    bucket.put("one/a.html", page(1))
    wanted = spec(remote("web", "HTML", "one/a.html", endpoint))
    await client.run("x", wanted)
    bucket.put("one/a.html", page(2))
    with pytest.raises(AlreadyExists) as changed, rpc_errors():
        await client.create("x", wanted)
    with pytest.raises(NotFound) as missing, rpc_errors():
        await client.create("y", spec(remote("web", "HTML", "nowhere/", endpoint)))

    assert "inventory.web.digest" in changed.value.metadata
    assert missing.value.reason == "SOURCE_NOT_FOUND"
