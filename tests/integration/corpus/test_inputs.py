"""Inputs that do not exist yet, never come, or come while ingest is away."""

from __future__ import annotations

import pytest
from longhaul.common.v1 import resource_pb2
from longhaul.corpus.v1 import corpus_build_pb2 as pb
from longhaul.ingest.v1 import ingestion_pb2

from tests.integration.corpus.conftest import Place, serve_ingest
from tests.integration.corpus.support import PARENT, Client, Ingest, library_documents, spec, until, write_dataset

pytestmark = pytest.mark.asyncio(loop_scope="module")

FAST = {"tokenizer": pb.TokenizerSource(training=pb.TokenizerTraining(vocabulary_size=300))}


def dataset(id: str) -> str:
    return f"{PARENT}/datasets/{id}"


async def waiting(client: Client, id: str, code: str) -> pb.CorpusBuild:
    return await until(lambda: client.get(id), lambda build: build.status.reason.code == code)


async def test_build_waits_for_dataset_and_begins_when_it_is_committed(client: Client, place: Place) -> None:
    name = dataset("later")
    await client.create("later", spec(datasets=[name], **FAST))
    seen = await waiting(client, "later", "DATASET_UNKNOWN")
    assert seen.status.state == resource_pb2.JOB_STATE_WAITING_FOR_INPUTS
    place.ingest.ingestions[f"{PARENT}/ingestions/later"] = ingestion_pb2.Ingestion(
        status=ingestion_pb2.IngestionStatus(state=resource_pb2.JOB_STATE_RUNNING)
    )
    await waiting(client, "later", "DATASET_NOT_READY")
    assert place.ingest.watchers > 0
    await place.ingest.commit(name, *write_dataset(place.store, library_documents()[:60], name=name))
    done = await client.ended("later")
    assert done.status.state == resource_pb2.JOB_STATE_SUCCEEDED, done.status.reason
    events = await client.builds.ListCorpusBuildEvents(pb.ListCorpusBuildEventsRequest(name=done.metadata.name))
    states = [event.data["to"] for event in events.events if event.type == "STATE_CHANGED"]
    assert states == ["WAITING_FOR_INPUTS", "RUNNING", "SUCCEEDED"]


async def test_build_fails_with_the_cause_of_its_ingestion(client: Client, place: Place) -> None:
    why = resource_pb2.StateReason(code="DISK_FULL", message="No space left on /data", action="Free some space.")
    place.ingest.ingestions[f"{PARENT}/ingestions/lost"] = ingestion_pb2.Ingestion(
        status=ingestion_pb2.IngestionStatus(state=resource_pb2.JOB_STATE_FAILED, reason=why)
    )
    done = await client.run("lost", spec(datasets=[dataset("lost")]))
    assert done.status.state == resource_pb2.JOB_STATE_FAILED
    assert done.status.reason.code == "INGESTION_FAILED"
    assert "No space left on /data" in done.status.reason.message
    assert done.status.reason.action == "Free some space."


async def test_failed_build_asked_for_again_begins_anew(client: Client, place: Place) -> None:
    name = dataset("lost")
    await place.ingest.commit(name, *write_dataset(place.store, library_documents()[:60], name=name))
    wanted = spec(datasets=[name])
    failed = await client.get("lost")
    again = await client.create("lost", wanted)
    assert again.metadata.uid == failed.metadata.uid
    assert (await client.ended("lost")).status.state == resource_pb2.JOB_STATE_SUCCEEDED


async def test_build_waits_for_named_tokenizer_and_fails_with_it(client: Client) -> None:
    named = pb.TokenizerSource(tokenizer=f"{PARENT}/tokenizers/coming")
    await client.create("named", spec(tokenizer=named))
    await waiting(client, "named", "TOKENIZER_UNKNOWN")
    from longhaul.corpus.v1 import tokenizer_pb2

    broken = await client.tokenizer("coming", tokenizer_pb2.TokenizerSpec(tokenizer_json=b"{}"))
    assert broken.status.reason.code == "TOKENIZER_INVALID"
    done = await client.ended("named")
    assert done.status.reason.code == "TOKENIZER_FAILED"
    assert broken.status.reason.message in done.status.reason.message


async def test_waiting_build_is_cancelled_and_stays_so(client: Client) -> None:
    await client.create("unwanted", spec(datasets=[dataset("never")]))
    await waiting(client, "unwanted", "DATASET_UNKNOWN")
    request = pb.CancelCorpusBuildRequest(name=f"{PARENT}/corpusBuilds/unwanted")
    await client.builds.CancelCorpusBuild(request)
    done = await client.ended("unwanted")
    assert done.status.state == resource_pb2.JOB_STATE_CANCELLED
    assert (await client.builds.CancelCorpusBuild(request)).status.state == resource_pb2.JOB_STATE_CANCELLED


async def test_running_build_is_cancelled_and_leaves_no_objects(client: Client, place: Place) -> None:
    await client.create("stopped", spec(**FAST))
    await until(lambda: client.get("stopped"), lambda build: build.status.progress.phase == "tokenizer")
    await client.builds.CancelCorpusBuild(pb.CancelCorpusBuildRequest(name=f"{PARENT}/corpusBuilds/stopped"))
    assert (await client.ended("stopped")).status.state == resource_pb2.JOB_STATE_CANCELLED
    prefix = f"{PARENT}/tokensets/stopped/"

    async def left() -> list[str]:
        return [info.key for info in place.store.list(prefix)]

    await until(left, lambda keys: not keys)


async def test_build_waits_while_ingest_is_away_and_goes_on_when_it_is_back(client: Client, place: Place) -> None:
    name = dataset("away")
    port = int(place.ingest_address.rpartition(":")[2])
    await client.create("away", spec(datasets=[name], **FAST))
    await waiting(client, "away", "DATASET_UNKNOWN")
    await place.server.stop(0)
    await waiting(client, "away", "INGEST_UNREACHABLE")
    back = Ingest()
    await back.commit(name, *write_dataset(place.store, library_documents()[:60], name=name))
    async with serve_ingest(back, port):
        assert (await client.ended("away")).status.state == resource_pb2.JOB_STATE_SUCCEEDED
