"""Dataset files that take down each worker: set aside and reported, the rest goes on; more than allowed fail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import chain, zip_longest
from typing import Any

import pytest
import pytest_asyncio
from longhaul.common.v1 import resource_pb2
from longhaul_core.engine import Engine, open_engine
from longhaul_core.manifests import read_manifest
from longhaul_corpus import app

from tests.integration.corpus.conftest import Place, serve_corpus
from tests.integration.corpus.deadly import DeadlyEngine
from tests.integration.corpus.support import PARENT, Client, library_documents, spec, write_dataset

pytestmark = pytest.mark.asyncio(loop_scope="module")

WHOLE, WITHOUT_SECOND = f"{PARENT}/datasets/whole", f"{PARENT}/datasets/without-second"
POISON = {"early": ("signatures", 1), "late": ("tokenise", 1), "refused": ("signatures", 1)}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def deadly(place: Place) -> AsyncIterator[tuple[Client, list[DeadlyEngine]]]:
    """A corpus service with a dataset of three files, of which the second kills, and one without it."""
    documents = library_documents()[::2]
    kept = chain.from_iterable(zip_longest(documents[0::3], documents[2::3]))
    await place.ingest.commit(WHOLE, *write_dataset(place.store, documents, name=WHOLE))
    rest = [document for document in kept if document]
    await place.ingest.commit(WITHOUT_SECOND, *write_dataset(place.store, rest, name=WITHOUT_SECOND, shards=2))
    engines: list[DeadlyEngine] = []

    def open_deadly(*args: Any, **kwargs: Any) -> Engine:
        engines.append(DeadlyEngine(open_engine(*args, **kwargs), POISON))
        return engines[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "open_engine", open_deadly)
        async with serve_corpus(place) as client:
            yield client, engines


async def token_files(client: Client, id: str) -> list[tuple[int, str]]:
    manifest = read_manifest(client.store, (await client.token_set(id)).manifest_key)
    return [(part.size, part.digest) for part in manifest.parts if part.key.endswith((".ds", ".index"))]


@pytest.mark.parametrize("id", ["early", "late"])
async def test_file_that_kills_three_workers_is_set_aside_and_the_rest_is_as_without_it(
    deadly: tuple[Client, list[DeadlyEngine]], id: str
) -> None:
    client, (engine,) = deadly
    if id == "early":
        await client.run("plain", spec(datasets=[WITHOUT_SECOND]))
    before = engine.kills
    done = await client.run(id, spec(datasets=[WHOLE], maximum_lost_shards=1))

    assert done.status.state == resource_pb2.JOB_STATE_SUCCEEDED, done.status.reason
    assert engine.kills - before == 3
    assert await token_files(client, id) == await token_files(client, "plain")
    (lost,) = done.status.lost_shards
    assert "shard-00001.parquet, 3 times in" in lost
    assert "signal 9" in lost
    counts = done.status
    ends = (counts.documents_train, counts.documents_valid, counts.documents_duplicate, counts.documents_contaminated)
    assert counts.documents_failed > 0
    assert counts.documents_in == sum(ends) + counts.documents_failed
    report = read_manifest(client.store, (await client.token_set(id)).manifest_key)
    assert report.counts["failed_documents"] == counts.documents_failed


async def test_file_that_kills_three_workers_fails_a_build_that_may_lose_none(
    deadly: tuple[Client, list[DeadlyEngine]],
) -> None:
    client, _ = deadly
    done = await client.run("refused", spec(datasets=[WHOLE]))

    assert done.status.state == resource_pb2.JOB_STATE_FAILED
    assert done.status.reason.code == "POISON_SHARD"
    assert "shard-00001.parquet, 3 times" in done.status.reason.message
    assert "maximum_lost_shards" in done.status.reason.action
