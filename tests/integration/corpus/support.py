"""A stand-in for the ingest service, datasets of real text, a corpus client, and the corpus service as a process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3
from longhaul.common.v1 import resource_pb2
from longhaul.corpus.v1 import corpus_build_pb2 as pb
from longhaul.corpus.v1 import (
    corpus_build_pb2_grpc,
    token_set_pb2,
    token_set_pb2_grpc,
    tokenizer_pb2,
    tokenizer_pb2_grpc,
)
from longhaul.ingest.v1 import dataset_pb2, dataset_pb2_grpc, ingestion_pb2, ingestion_pb2_grpc
from longhaul_core.manifests import Manifest, Part, put_part, write_manifest
from longhaul_core.objects import FilesystemStore

from tests.unit.corpus.texts import edited, library_texts

PARENT = "projects/demo"
DATASET = f"{PARENT}/datasets/docs"
ENDED = {resource_pb2.JOB_STATE_SUCCEEDED, resource_pb2.JOB_STATE_FAILED, resource_pb2.JOB_STATE_CANCELLED}


@dataclass(frozen=True)
class Document:
    """A document of a test dataset."""

    text: str
    source: str = "docs"
    url: str | None = None

    @property
    def id(self) -> str:
        return blake3(self.text.encode()).hexdigest()[:32]


def library_documents() -> list[Document]:
    """Docstrings of the standard library in two sources, with exact copies, near copies and a page met twice."""
    texts = library_texts()[:100]
    documents = [
        Document(text, "library" if number % 3 else "guide", f"https://docs/{number}")
        for number, text in enumerate(texts)
    ]
    exact = [Document(text, "guide", f"https://mirror/{number}") for number, text in enumerate(texts[:5])]
    near = [Document(edited(text, 0.03, number), "library") for number, text in enumerate(texts[10:20])]
    newer = [Document(f"A newer version of this page.\n\n{texts[30]} {texts[31]}", "guide", "https://docs/30#top")]
    return documents + exact + near + newer


def write_dataset(
    store: FilesystemStore, documents: Sequence[Document], *, name: str = DATASET, shards: int = 3
) -> tuple[str, str]:
    """Write a dataset as ingest does; returns the key and the digest of its manifest."""
    prefix = name.replace("projects/", "projects/", 1) + "/0123456789ab"
    parts: list[Part] = []
    for number in range(shards):
        rows = documents[number::shards]
        table = pa.table(
            {
                "id": [document.id for document in rows],
                "source": [document.source for document in rows],
                "url": pa.array([document.url for document in rows], pa.string()),
                "text": pa.array([document.text for document in rows], pa.string()),
                "language": pa.nulls(len(rows), pa.string()),
                "extra": ["{}"] * len(rows),
            }
        )
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", row_group_size=16)
        parts.append(put_part(store, f"{prefix}/shard-{number:05d}.parquet", sink.getvalue().to_pybytes()))
    manifest = Manifest(
        kind="dataset",
        name=name,
        uid="0" * 32,
        created=datetime(2026, 1, 1, tzinfo=UTC),
        parts=parts,
        counts={"kept": len(documents)},
    )
    key = f"{prefix}/manifest.json"
    return key, write_manifest(store, key, manifest).digest


class Ingest(dataset_pb2_grpc.DatasetServiceServicer, ingestion_pb2_grpc.IngestionServiceServicer):
    """An ingest service whose datasets and ingestions are what a test says."""

    def __init__(self) -> None:
        self.datasets: dict[str, dataset_pb2.Dataset] = {}
        self.ingestions: dict[str, ingestion_pb2.Ingestion] = {}
        self.watchers = 0
        self._changed = asyncio.Condition()
        self._revision = 1

    async def commit(self, name: str, key: str, digest: str) -> None:
        async with self._changed:
            self._revision += 1
            self.datasets[name] = dataset_pb2.Dataset(
                metadata=resource_pb2.Metadata(name=name, revision=self._revision), manifest_key=key, digest=digest
            )
            self._changed.notify_all()

    async def GetDataset(self, request: Any, context: Any) -> dataset_pb2.Dataset:
        if request.name not in self.datasets:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such dataset")
        return self.datasets[request.name]

    async def ListDatasets(self, request: Any, context: Any) -> dataset_pb2.ListDatasetsResponse:
        return dataset_pb2.ListDatasetsResponse(datasets=self.datasets.values(), revision=self._revision)

    async def WatchDatasets(self, request: Any, context: Any) -> AsyncIterator[dataset_pb2.WatchDatasetsResponse]:
        self.watchers += 1
        async with self._changed:
            await self._changed.wait_for(lambda: self._revision > request.after_revision)
        newest = max(self.datasets.values(), key=lambda dataset: dataset.metadata.revision)
        yield dataset_pb2.WatchDatasetsResponse(
            type=resource_pb2.CHANGE_TYPE_UPDATED, dataset=newest, revision=self._revision
        )

    async def GetIngestion(self, request: Any, context: Any) -> ingestion_pb2.Ingestion:
        if request.name not in self.ingestions:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such ingestion")
        return self.ingestions[request.name]


@dataclass
class Client:
    """Calls on a corpus service."""

    channel: grpc.aio.Channel
    store: FilesystemStore
    builds: Any = field(init=False)
    token_sets: Any = field(init=False)
    tokenizers: Any = field(init=False)

    def __post_init__(self) -> None:
        self.builds = corpus_build_pb2_grpc.CorpusBuildServiceStub(self.channel)
        self.token_sets = token_set_pb2_grpc.TokenSetServiceStub(self.channel)
        self.tokenizers = tokenizer_pb2_grpc.TokenizerServiceStub(self.channel)

    async def create(self, id: str, spec: pb.CorpusBuildSpec) -> pb.CorpusBuild:
        request = pb.CreateCorpusBuildRequest(parent=PARENT, corpus_build_id=id, spec=spec)
        return await self.builds.CreateCorpusBuild(request)

    async def get(self, id: str) -> pb.CorpusBuild:
        return await self.builds.GetCorpusBuild(pb.GetCorpusBuildRequest(name=build_name(id)))

    async def ended(self, id: str) -> pb.CorpusBuild:
        """Wait until a build is at its end."""
        return await until(lambda: self.get(id), lambda build: build.status.state in ENDED)

    async def run(self, id: str, spec: pb.CorpusBuildSpec) -> pb.CorpusBuild:
        """Create a build and wait until it is at its end."""
        await self.create(id, spec)
        return await self.ended(id)

    async def token_set(self, id: str) -> token_set_pb2.TokenSet:
        name = f"{PARENT}/tokenSets/{id}"
        return await self.token_sets.GetTokenSet(token_set_pb2.GetTokenSetRequest(name=name))

    async def tokenizer(self, id: str, spec: tokenizer_pb2.TokenizerSpec) -> tokenizer_pb2.Tokenizer:
        """Create a tokenizer and wait until it is at its end."""
        request = tokenizer_pb2.CreateTokenizerRequest(parent=PARENT, tokenizer_id=id, spec=spec)
        made = await self.tokenizers.CreateTokenizer(request)
        name = tokenizer_pb2.GetTokenizerRequest(name=made.metadata.name)
        return await until(
            lambda: self.tokenizers.GetTokenizer(name), lambda tokenizer: tokenizer.status.state in ENDED
        )


def build_name(id: str) -> str:
    return f"{PARENT}/corpusBuilds/{id}"


def spec(**fields: Any) -> pb.CorpusBuildSpec:
    """A small build of the test dataset."""
    defaults: dict[str, Any] = {
        "datasets": [DATASET],
        "holdout": pb.Holdout(fraction=0.15, seed=7),
        "evaluation_tasks": pb.EvaluationTasks(bits_per_byte_documents=12, cloze_questions=20),
        "tokenizer": pb.TokenizerSource(training=pb.TokenizerTraining(vocabulary_size=768)),
        "sequence_length": 128,
        "shard_tokens": 40_000,
    }
    return pb.CorpusBuildSpec(**(defaults | fields))


async def until(look: Callable[[], Awaitable[Any]], good: Callable[[Any], bool], seconds: float = 60.0) -> Any:
    """Look until what is seen is good; fails after a deadline."""
    deadline = time.monotonic() + seconds
    while True:
        seen = await look()
        if good(seen):
            return seen
        assert time.monotonic() < deadline, f"not within {seconds} s: {seen}"
        await asyncio.sleep(0.05)


class Process:
    """The corpus service as a process of its own, which a test may kill."""

    def __init__(self, folder: Path, ingest_address: str, objects: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._objects = objects
        self._ingest_address = ingest_address
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"

    def start(self, failpoints: str = "") -> None:
        environment = os.environ | {
            "LONGHAUL_DATA_DIR": str(self._folder),
            "LONGHAUL_LISTEN_ADDRESS": self.address,
            "LONGHAUL_METRICS_ADDRESS": "",
            "LONGHAUL_INGEST_ADDRESS": self._ingest_address,
            "LONGHAUL_WORKERS": "2",
            "LONGHAUL_FAILPOINTS": failpoints,
            "LONGHAUL_SHARD_LEASE_SECONDS": "2",
            "LONGHAUL_OBJECT_STORE_URL": f"file://{self._objects}",
        }
        with (self._folder / "corpus.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "longhaul_corpus"], env=environment, stdout=log, stderr=log
            )

    def wait_killed(self) -> None:
        """Wait until an armed point has ended the process."""
        assert self._process is not None
        assert self._process.wait(timeout=60) == -signal.SIGKILL

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(timeout=30)


def rows(store: FilesystemStore, key: str) -> list[dict[str, Any]]:
    """Rows of a JSON lines object."""
    return [json.loads(line) for line in store.get(key).splitlines()]
