"""Ingest and corpus with one replica and with two, one worker each: time, digests, and a killed replica.

`make bench-replicas` prints one JSON object a line and at last how many targets were met. Replicas share a PostgreSQL
and a folder as their store; nothing else is started, so that two cores are for two workers, less what the database, the
services' own loops and the operating system take. Rounds alternate; the speed is that of the medians.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "e2e")]

from longhaul.common.v1 import resource_pb2  # noqa: E402 - found through the path above
from longhaul.corpus.v1 import corpus_build_pb2, token_set_pb2  # noqa: E402 - as above
from longhaul.ingest.v1 import dataset_pb2, ingestion_pb2  # noqa: E402 - as above
from longhaul_client import convert  # noqa: E402 - as above
from longhaul_client.recipes import Recipe, read_recipe  # noqa: E402 - as above
from longhaul_client.sdk import call  # noqa: E402 - as above
from longhaul_core.manifests import read_manifest  # noqa: E402 - as above
from longhaul_core.objects import open_store  # noqa: E402 - as above

from tests import conftest  # noqa: E402 - as above
from tests.e2e.recipes import recipe, write_documents, write_recipe  # noqa: E402 - as above
from tests.e2e.replicas import Production  # noqa: E402 - as above

PARENT = "projects/default"
ROUNDS, TARGET = 3, 1.6
FILES, DOCUMENTS, WARM_DOCUMENTS = 64, 350, 10
SENTENCES = 200
"""A document; the job is so large that the steps between its phases, which are nobody's work, count for little."""
DEADLINE_SECONDS = 900.0


def sources(folder: Path, documents: int) -> Recipe:
    """JSONL files of equal size; every document is another one."""
    folder.mkdir()
    for number in range(FILES):
        texts = write_documents(folder / "texts", documents=documents, sentences=SENTENCES, seed=number)
        rows = (json.dumps({"text": path.read_text()}) for path in sorted(texts.iterdir()))
        (folder / f"{number:03d}.jsonl").write_text("\n".join(rows) + "\n")
        shutil.rmtree(texts)
    document = recipe(folder.name, folder, kind="jsonl")
    return read_recipe(write_recipe(folder.with_suffix(".yaml"), document))


def seconds_of(status: Any) -> float:
    """From the start of a job to its end, by the service's clock."""
    return float((status.end_time.ToNanoseconds() - status.start_time.ToNanoseconds()) / 1e9)


class Round:
    """Ingestions and corpus builds with so many replicas of each."""

    def __init__(self, folder: Path, server: str, count: int) -> None:
        database = f"bench_{folder.name.replace('-', '_')}"
        with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {database}")
        self.store = f"file://{folder / 'store'}"
        services = ("ingest", "corpus")
        url = f"{server}/{database}"
        self.production = Production(folder, url, self.store, count=count, nodes=0, services=services)

    def run(self, warm: Recipe, wanted: Recipe, *, kill: bool = False) -> tuple[dict[str, float], list[Any]]:
        """Seconds by service, and digests of what was made; workers load their programs on something small first."""
        try:
            self._make(warm, kill=False)
            seconds = self._make(wanted, kill=kill)
            return seconds, self._digests(wanted.name)
        finally:
            self.production.stop()

    def _make(self, wanted: Recipe, *, kill: bool) -> dict[str, float]:
        client, name = self.production.client, wanted.name
        spec = convert.ingestion_spec(wanted)
        made = ingestion_pb2.CreateIngestionRequest(parent=PARENT, ingestion_id=name, spec=spec)
        call(client.ingestions.CreateIngestion, made)
        ingested = self._end("ingest", name, kill)
        build = convert.corpus_build_spec(wanted, dataset=f"{PARENT}/datasets/{name}", tokenizer="")
        asked = corpus_build_pb2.CreateCorpusBuildRequest(parent=PARENT, corpus_build_id=name, spec=build)
        call(client.corpus_builds.CreateCorpusBuild, asked)
        return {"ingest": seconds_of(ingested), "corpus": seconds_of(self._end("corpus", name, kill))}

    def _status(self, service: str, name: str) -> Any:
        client = self.production.client
        if service == "ingest":
            asked = ingestion_pb2.GetIngestionRequest(name=f"{PARENT}/ingestions/{name}")
            return call(client.ingestions.GetIngestion, asked).status
        return call(
            client.corpus_builds.GetCorpusBuild,
            corpus_build_pb2.GetCorpusBuildRequest(name=f"{PARENT}/corpusBuilds/{name}"),
        ).status

    def _end(self, service: str, name: str, kill: bool) -> Any:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (status := self._status(service, name)).state != resource_pb2.JOB_STATE_SUCCEEDED:
            assert status.state != resource_pb2.JOB_STATE_FAILED, status.reason
            assert time.monotonic() < deadline, status
            if kill and status.progress.fraction > 0.2:
                self.production.of(service)[0].kill()
                kill = False
            time.sleep(0.2)
        assert not kill, f"{service} had ended before it was killed"
        return status

    def _digests(self, name: str) -> list[Any]:
        client, store = self.production.client, open_store(self.store)
        dataset = call(client.datasets.GetDataset, dataset_pb2.GetDatasetRequest(name=f"{PARENT}/datasets/{name}"))
        tokens = call(
            client.token_sets.GetTokenSet, token_set_pb2.GetTokenSetRequest(name=f"{PARENT}/tokenSets/{name}")
        )
        manifests = [read_manifest(store, made.manifest_key) for made in (dataset, tokens)]
        return [[(part.key.rpartition("/")[2], part.digest) for part in manifest.parts] for manifest in manifests]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    taken: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="longhaul-bench-") as name, conftest.serving_postgres() as server:
        folder = Path(name)
        warm, wanted = sources(folder / "warm", WARM_DOCUMENTS), sources(folder / "bench", DOCUMENTS)
        digests = []
        for number in range(rounds):
            for count in (1, 2):
                seconds, made = Round(folder / f"r{number}-{count}", server, count).run(warm, wanted)
                digests.append(made)
                for service, spent in seconds.items():
                    taken.setdefault((service, count), []).append(spent)
        digests.append(Round(folder / "killed-2", server, 2).run(warm, wanted, kill=True)[1])
    met = []
    for service in ("ingest", "corpus"):
        one, two = (statistics.median(taken[service, count]) for count in (1, 2))
        met.append(one / two >= TARGET)
        row = {"bench": f"replicas/{service}", "ours": round(two, 2), "peer": round(one, 2), "peer_name": "1 replica"}
        print(json.dumps({**row, "unit": "s", "ratio": round(one / two, 3), "target": f">= {TARGET}", "met": met[-1]}))
    same = all(made == digests[0] for made in digests)
    met.append(same)
    row = {"bench": "replicas/digests", "ours": len(digests), "peer": None, "peer_name": None, "unit": "builds"}
    print(json.dumps({**row, "ratio": None, "target": "the same, one with killed replicas", "met": same}))
    print(f"bench-replicas: {sum(met)} of {len(met)} targets met")


if __name__ == "__main__":
    main()
