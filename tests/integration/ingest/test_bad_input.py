"""Sources as users really have them: missing, empty, damaged, mixed up."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
from longhaul.common.v1 import resource_pb2
from longhaul.ingest.v1 import dataset_pb2, ingestion_pb2
from longhaul_core.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from longhaul_core.objects import FilesystemStore
from longhaul_core.rpc.client import connect, rpc_errors
from longhaul_ingest.adapters.failpoints import Point

from tests.integration.ingest.support import PROJECT, PROSE, Client, Process, http, page, source, spec, write_warc

SUCCEEDED, FAILED = resource_pb2.JOB_STATE_SUCCEEDED, resource_pb2.JOB_STATE_FAILED


def write_texts(folder: Path, count: int = 4) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f"text {number}.txt").write_text(PROSE.format(number=number))
    return folder


async def test_folder_of_mixed_files_is_read_and_each_file_accounted_for(client: Client, tmp_path: Path) -> None:
    folder = write_texts(tmp_path / "texts")
    (folder / "binary.txt").write_bytes(os.urandom(4096))
    (folder / "empty.txt").write_bytes(b"")
    (folder / "latin.txt").write_bytes("Übermut tut selten gut, sagt man im Süden. ".encode("cp1252") * 9)
    (folder / "wide.txt").write_text("Wide characters — with a mark", encoding="utf-16")
    (folder / "twice.txt").write_text(PROSE.format(number=1))
    (folder / "cut.txt.gz").write_bytes(gzip.compress(b"some words" * 99)[:-5])
    os.rename(folder / "text 3.txt", os.path.join(os.fsencode(folder), b"na\xefve 3.txt"))  # noqa: PTH104, PTH118
    done = await client.run("mixed", spec(source("mixed", "TEXT", folder)))
    rows = await client.rows("mixed")
    refused = {row["url"]: row["rule"] for row in await client.rows("mixed", "dropped")}

    assert done.status.state == SUCCEEDED, done.status.reason
    assert refused == {"binary.txt": "binary", "empty.txt": "empty_body", "cut.txt.gz": "damaged_archive"}
    assert [row["url"] for row in rows] == [
        "latin.txt", "na\\xefve 3.txt", "text 0.txt", "text 1.txt", "text 2.txt", "twice.txt", "wide.txt",
    ]  # fmt: skip
    texts = {row["url"]: row for row in rows}
    assert "Übermut" in texts["latin.txt"]["text"]
    assert texts["wide.txt"]["text"] == "Wide characters — with a mark"
    assert texts["twice.txt"]["id"] == texts["text 1.txt"]["id"]
    assert json.loads(texts["wide.txt"]["extra"])["charset"] == "utf-16-le"
    assert len(done.status.damages) == 1
    assert "cut.txt.gz" in done.status.damages[0]


async def test_sources_of_every_kind_in_one_ingestion(client: Client, tmp_path: Path) -> None:
    html = tmp_path / "html"
    html.mkdir()
    (html / "a.html").write_bytes(page(1))
    (tmp_path / "rows.jsonl").write_text(json.dumps({"body": PROSE, "link": "http://a/"}))
    (tmp_path / "main.py").write_text("def main() -> None:\n\tprint('hello')\n")
    texts = write_texts(tmp_path / "texts", 1)
    crawl = write_warc(tmp_path / "crawl.warc.gz", {"http://b/": http(page(2))})
    done = await client.run(
        "all",
        spec(
            source("html", "HTML", html),
            source("rows", "JSONL", tmp_path / "*.jsonl", text_field="body", url_field="link"),
            source("code", "CODE", tmp_path, extensions=["py"]),
            source("texts", "TEXT", texts),
            source("crawl", "WARC", crawl),
            filters=["gopher_quality"],
        ),
    )
    rows = await client.rows("all")

    assert done.status.state == SUCCEEDED, done.status.reason
    assert [(row["source"], row["url"]) for row in rows] == [
        ("html", "a.html"), ("rows", "http://a/"), ("code", "main.py"), ("texts", "text 0.txt"), ("crawl", "http://b/"),
    ]  # fmt: skip
    assert rows[2]["text"] == "def main() -> None:\n\tprint('hello')"  # no rule for prose judges code
    dataset = await client.dataset("all")
    assert [(item.name, item.documents) for item in dataset.sources] == [
        (name, 1) for name in ("html", "rows", "code", "texts", "crawl")
    ]


async def test_missing_source_is_refused_at_once_with_its_path(client: Client, tmp_path: Path) -> None:
    with pytest.raises(NotFound) as raised, rpc_errors():
        await client.create("x", spec(source("web", "WARC", tmp_path / "nowhere.warc.gz")))

    assert raised.value.reason == "SOURCE_NOT_FOUND"
    assert raised.value.metadata["path"] == str(tmp_path / "nowhere.warc.gz")
    assert raised.value.action


async def test_source_whose_files_hold_no_record_fails_and_is_named(client: Client, tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "texts")
    (tmp_path / "a.jsonl").write_text("\n\n")
    done = await client.run("x", spec(source("texts", "TEXT", texts), source("rows", "JSONL", tmp_path / "a.jsonl")))

    assert done.status.state == FAILED
    assert done.status.reason.code == "SOURCE_EMPTY"
    assert done.status.reason.metadata["source"] == "rows"
    with pytest.raises(NotFound), rpc_errors():
        await client.dataset("x")


async def test_source_filtered_away_fails_with_the_rules_that_did_it(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text("too short")
    done = await client.run("x", spec(source("texts", "TEXT", folder), filters=["gopher_quality"]))

    assert done.status.reason.code == "ALL_DOCUMENTS_FILTERED"
    assert "gopher_quality.min_words: 3" in done.status.reason.message


async def test_source_of_the_wrong_kind_fails_and_says_so(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("this is\nno JSON\n")
    done = await client.run("x", spec(source("rows", "JSONL", tmp_path / "a.jsonl")))

    assert done.status.reason.code == "ALL_DOCUMENTS_FAILED"
    assert "invalid_json: 2" in done.status.reason.message


@pytest.mark.parametrize(("allowed", "state"), [(0.1, FAILED), (0.5, SUCCEEDED)])
async def test_many_unreadable_records_fail_beyond_the_allowed_share(
    client: Client, tmp_path: Path, allowed: float, state: int
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' * 30 + "broken\n" * 15)
    wanted = spec(source("rows", "JSONL", tmp_path / "a.jsonl"), maximum_failed_fraction=allowed)
    done = await client.run("x", wanted)

    assert done.status.state == state
    assert done.status.documents_failed == 15
    assert done.status.reason.code == ("TOO_MANY_FAILED" if state == FAILED else "")


async def test_same_request_attaches_and_another_spec_is_refused_with_what_differs(
    client: Client, tmp_path: Path
) -> None:
    folder = write_texts(tmp_path / "texts")
    wanted = spec(source("texts", "TEXT", folder))
    first = await client.run("x", wanted)
    again = await client.create("x", wanted)
    with pytest.raises(AlreadyExists) as settings, rpc_errors():
        await client.create("x", spec(source("texts", "TEXT", folder), filters=["gopher_quality"]))
    (folder / "new.txt").write_text("one more")
    with pytest.raises(AlreadyExists) as files, rpc_errors():
        await client.create("x", wanted)

    assert again == first
    assert "cleaning.filters" in settings.value.metadata
    assert files.value.metadata["inventory.texts.files"] == "4 -> 5"


async def test_failed_ingestion_starts_again_when_it_is_asked_for_again(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n")
    wanted = spec(source("rows", "JSONL", path))
    failed = await client.run("x", wanted)
    path.write_text('{"text": "now there is one"}\n')
    done = await client.run("x", wanted)

    assert failed.status.state == FAILED
    assert done.status.state == SUCCEEDED, done.status.reason
    assert done.metadata.uid == failed.metadata.uid


async def test_finished_ingestion_needs_its_sources_no_more(client: Client, tmp_path: Path) -> None:
    folder = write_texts(tmp_path / "texts")
    wanted = spec(source("texts", "TEXT", folder))
    first = await client.run("x", wanted)
    for file in folder.iterdir():
        file.unlink()

    assert await client.create("x", wanted) == first


async def test_wrong_requests_name_each_violation(client: Client, tmp_path: Path) -> None:
    folder = write_texts(tmp_path / "texts")
    twice = spec(source("texts", "TEXT", folder), source("texts", "TEXT", folder), filters=["gopher_qality"])
    with pytest.raises(InvalidArgument) as raised, rpc_errors():
        await client.create("x", twice)
    with pytest.raises(InvalidArgument) as no_kind, rpc_errors():
        await client.create("x", spec(ingestion_pb2.Source(name="a", locations=["/"])))

    assert [field for field, _ in raised.value.violations] == ["spec.sources[1].name", "spec.filters[0].name"]
    assert "did you mean 'gopher_quality'?" in raised.value.message
    assert [field for field, _ in no_kind.value.violations] == ["spec.sources[0].kind"]


async def test_file_changed_between_plan_and_work_fails_the_ingestion(
    process: Process, store: FilesystemStore, tmp_path: Path
) -> None:
    folder = write_texts(tmp_path / "texts")
    process.start(failpoints=Point.PLANNED.value)
    async with connect(process.address) as channel:
        await Client(channel, store).create("x", spec(source("texts", "TEXT", folder)))
        process.wait_killed()
    (folder / "text 1.txt").write_text("something else")
    process.start()
    async with connect(process.address) as channel:
        done = await Client(channel, store).end("x")

    assert done.status.reason.code == "SOURCE_CHANGED"
    assert "text 1.txt" in done.status.reason.message


async def test_cancel_ends_the_work_and_leaves_no_dataset(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    path.write_text((json.dumps({"text": PROSE * 4}) + "\n") * 8000)
    await client.create("x", spec(source("rows", "JSONL", path), filters=["gopher_repetition"]))
    request = ingestion_pb2.CancelIngestionRequest(name=f"{PROJECT}/ingestions/x")
    cancelling = await client.ingestions.CancelIngestion(request)
    done = await client.end("x")
    after = await client.ingestions.CancelIngestion(request)

    assert cancelling.status.state == resource_pb2.JOB_STATE_CANCELLING
    assert done.status.state == resource_pb2.JOB_STATE_CANCELLED
    assert after == done
    assert list(client.store.list()) == []


async def test_deleted_dataset_is_gone_and_can_be_made_again(client: Client, tmp_path: Path) -> None:
    wanted = spec(source("texts", "TEXT", write_texts(tmp_path / "texts")))
    await client.run("x", wanted)
    digest = (await client.manifest("x")).extra["content_digest"]
    request = dataset_pb2.DeleteDatasetRequest(name=f"{PROJECT}/datasets/x")
    await client.datasets.DeleteDataset(request)
    await client.datasets.DeleteDataset(request)
    assert list(client.store.list()) == []
    await client.run("x", wanted)

    assert (await client.manifest("x")).extra["content_digest"] == digest


async def test_dataset_of_an_active_ingestion_cannot_be_deleted(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    path.write_text((json.dumps({"text": PROSE * 4}) + "\n") * 8000)
    await client.create("x", spec(source("rows", "JSONL", path), filters=["gopher_repetition"]))
    with pytest.raises(FailedPrecondition) as raised, rpc_errors():
        await client.datasets.DeleteDataset(dataset_pb2.DeleteDatasetRequest(name=f"{PROJECT}/datasets/x"))
    await client.ingestions.CancelIngestion(ingestion_pb2.CancelIngestionRequest(name=f"{PROJECT}/ingestions/x"))
    await client.end("x")

    assert raised.value.reason == "INGESTION_ACTIVE"
