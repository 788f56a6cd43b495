"""Files of a user's machine brought to a service elsewhere: folder and S3, interrupted, changed, refused."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from longhaul.common.v1 import resource_pb2
from longhaul.ingest.v1 import ingestion_pb2, upload_pb2
from longhaul_client import Client
from longhaul_client.connection import Connection
from longhaul_client.convert import ingestion_spec
from longhaul_client.local.layout import SERVICES
from longhaul_client.recipes import Recipe, read_recipe
from longhaul_client.sdk import call
from longhaul_client.uploads import LocalFile, upload, with_uploaded_sources
from longhaul_core.digests import hash_bytes
from longhaul_core.errors import FailedPrecondition, InvalidArgument, LonghaulError, NotFound, ResourceExhausted

from tests.e2e.recipes import recipe, write_documents, write_recipe
from tests.e2e.replicas import ACCESS, SECRET, Bucket
from tests.integration.ingest.support import DEADLINE_SECONDS, ENDED, PROSE, Process

PARENT = "projects/default"
PIECE_BYTES = 8 << 20
ROWS, FILLER = 42, "x" * 400_000


@pytest.fixture
def user(process: Process) -> Iterator[Client]:
    """The SDK of somebody on another machine."""
    with Client(Connection(dict.fromkeys(SERVICES, process.address))) as client:
        yield client


def started(process: Process, **settings: object) -> None:
    process.start(**settings)
    with grpc.insecure_channel(process.address) as channel:
        grpc.channel_ready_future(channel).result(timeout=DEADLINE_SECONDS)


def two_sources(folder: Path) -> Recipe:
    """A folder of texts, and a file of three pieces."""
    texts = write_documents(folder / "texts", documents=20)
    (texts / ".hidden.txt").write_text("not for others")
    rows = folder / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"text": PROSE.format(number=number), "filler": FILLER}) + "\n" for number in range(ROWS))
    )
    assert 2 * PIECE_BYTES < rows.stat().st_size < 3 * PIECE_BYTES
    document = recipe("brought", texts)
    document["sources"].append({"name": "rows", "kind": "jsonl", "path": str(folder / "*.jsonl")})
    document["cleaning"] = {"filters": []}
    return read_recipe(write_recipe(folder / "recipe.yaml", document))


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_upload_broken_off_by_a_killed_service_goes_on_and_is_ingested(
    kind: str, process: Process, user: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {}
    bucket = None
    if kind == "s3":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        bucket = Bucket(tmp_path / "bucket")
        settings["object_store_url"] = bucket.url
    try:
        local = two_sources(tmp_path)
        started(process, **settings)
        told: list[tuple[str, int, int]] = []

        def kill_within_rows(source: str, done: int, total: int) -> None:
            told.append((source, done, total))
            if source == "rows" and done == PIECE_BYTES:
                process.kill()
                monkeypatch.setattr("longhaul_client.uploads.WRITE_SECONDS", 2.0)

        with pytest.raises(LonghaulError):
            with_uploaded_sources(user, local, kill_within_rows)
        assert told[-1][:2] == ("rows", PIECE_BYTES)

        monkeypatch.undo()
        if bucket is not None:
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        started(process, **settings)
        told.clear()
        brought = with_uploaded_sources(user, local, lambda *said: told.append(said))
        texts, rows = ([said[1:] for said in told if said[0] == source] for source in ("docs", "rows"))
        assert texts == [texts[0]]
        assert texts[0][0] == texts[0][1]
        assert rows[0][0] == PIECE_BYTES
        assert rows[-1][0] == rows[-1][1]
        assert with_uploaded_sources(user, local) == brought
        read_back(user, brought)
    finally:
        if bucket is not None:
            bucket.stop()


def read_back(user: Client, brought: Recipe) -> None:
    """Ingest what was brought."""
    request = ingestion_pb2.CreateIngestionRequest(parent=PARENT, ingestion_id="brought", spec=ingestion_spec(brought))
    call(user.ingestions.CreateIngestion, request)
    get = ingestion_pb2.GetIngestionRequest(name=f"{PARENT}/ingestions/brought")
    deadline = time.monotonic() + DEADLINE_SECONDS
    while (status := call(user.ingestions.GetIngestion, get).status).state not in ENDED:
        assert time.monotonic() < deadline, status
        time.sleep(0.05)
    assert status.state == resource_pb2.JOB_STATE_SUCCEEDED, status.reason
    assert status.documents_read == ROWS + 20


def test_upload_that_is_wrong_is_refused_and_says_why(process: Process, user: Client, tmp_path: Path) -> None:
    started(process, upload_maximum_bytes=100)
    good = upload_pb2.UploadFile(path="a/b.txt", size=5, digest=hash_bytes(b"first"))

    def begin(*files: upload_pb2.UploadFile) -> upload_pb2.BeginUploadResponse:
        request = upload_pb2.BeginUploadRequest(parent=PARENT, files=files)
        answer: upload_pb2.BeginUploadResponse = call(user.uploads.BeginUpload, request)
        return answer

    for path in ("../b.txt", "/b.txt", "a//b", ".hidden", "a\\b", ""):
        with pytest.raises(InvalidArgument, match="path") as refused:
            begin(upload_pb2.UploadFile(path=path, size=5, digest=good.digest))
        assert refused.value.reason == "UPLOAD_INVALID"
    with pytest.raises(InvalidArgument, match="digest"):
        begin(upload_pb2.UploadFile(path="a", size=5, digest="x"))
    with pytest.raises(InvalidArgument, match="twice"):
        begin(good, good)
    with pytest.raises(ResourceExhausted, match="101 bytes, and an upload may have 100"):
        begin(upload_pb2.UploadFile(path="a", size=101, digest=good.digest))
    never = upload_pb2.FinishUploadRequest(name=f"{PARENT}/uploads/0", path="a")
    with pytest.raises(NotFound, match="never begun"):
        call(user.uploads.FinishUpload, never)

    name = begin(good).name
    finish = upload_pb2.FinishUploadRequest(name=name, path=good.path)
    with pytest.raises(FailedPrecondition) as early:
        call(user.uploads.FinishUpload, finish)
    assert early.value.reason == "UPLOAD_INCOMPLETE"
    for piece, data, match in ((1, b"", "pieces 0 to 0"), (0, b"sixsix", "5 bytes, not 6")):
        write = upload_pb2.WriteUploadRequest(name=name, path=good.path, piece=piece, data=data)
        with pytest.raises(InvalidArgument, match=match):
            call(user.uploads.WriteUpload, write)
    changed = upload_pb2.WriteUploadRequest(name=name, path=good.path, data=b"other")
    call(user.uploads.WriteUpload, changed)
    with pytest.raises(FailedPrecondition, match="changed while it was uploaded") as corrupt:
        call(user.uploads.FinishUpload, finish)
    assert corrupt.value.reason == "UPLOAD_CORRUPT"
    assert list(begin(good).missing[0].pieces) == [0]

    twins = [upload_pb2.UploadFile(path=path, size=5, digest=good.digest) for path in ("one", "two")]
    name = begin(*twins).name
    for twin in twins:
        call(user.uploads.WriteUpload, upload_pb2.WriteUploadRequest(name=name, path=twin.path, data=b"first"))
    for twin in twins:
        call(user.uploads.FinishUpload, upload_pb2.FinishUploadRequest(name=name, path=twin.path))
    assert not begin(*twins).missing

    (tmp_path / "b.txt").write_bytes(b"first")
    location = upload(user, PARENT, [LocalFile(tmp_path / "b.txt", "a/b.txt")], lambda done, total: None)
    assert Path(location.removeprefix("file://"), "a/b.txt").read_bytes() == b"first"
    call(user.uploads.FinishUpload, finish)  # once more: it is there
