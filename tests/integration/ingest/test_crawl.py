"""The recorded crawl through the whole service."""

from __future__ import annotations

from longhaul.common.v1 import resource_pb2
from longhaul.ingest.v1 import dataset_pb2, ingestion_pb2

from tests.integration.ingest.conftest import Serve
from tests.integration.ingest.support import CRAWL, PROJECT, Client, source, spec

GOPHER = ("gopher_repetition", "gopher_quality")


async def test_crawl_in_fast_mode_gives_dataset_with_every_record_accounted_for(serve: Serve) -> None:
    async with serve(workers=2) as client:
        done = await client.run("docs", spec(source("docs", "WARC", CRAWL), filters=GOPHER))
        await _check_dataset(client, done)


async def _check_dataset(client: Client, done: ingestion_pb2.Ingestion) -> None:
    status = done.status
    assert status.state == resource_pb2.JOB_STATE_SUCCEEDED, status.reason
    assert status.documents_read == 486
    assert status.documents_read == status.documents_kept + status.documents_dropped + status.documents_failed
    assert status.documents_kept > 350
    drops = {drop.rule: drop.documents for drop in status.drops}
    assert sum(drops.values()) == status.documents_dropped + status.documents_failed
    assert drops["http_status"] == 17
    assert drops["mime_type"] == 18
    assert drops["empty_body"] == 1
    manifest = await client.manifest("docs")
    rows = await client.rows("docs")
    assert len(rows) == status.documents_kept == manifest.counts["kept"]
    assert len(await client.rows("docs", "dropped")) == status.documents_dropped + status.documents_failed
    pages = {row["url"]: row["text"] for row in rows}
    latin = pages["http://python-docs.test/3.11/distutils/sourcedist.html"]
    assert "—" in latin  # given as a character reference by an ISO-8859-1 page
    assert "â€" not in "".join(pages.values())
    request = ingestion_pb2.ListDropSamplesRequest(name=done.metadata.name, rule="http_status")
    samples = await client.ingestions.ListDropSamples(request)
    assert [sample.detail for sample in samples.drop_samples] == ["301"] * 5
    listed = await client.datasets.ListDatasets(dataset_pb2.ListDatasetsRequest(parent=PROJECT))
    assert [item.digest for item in listed.datasets] == [manifest.digest]
