"""What a job waits for: datasets of ingest, and a tokenizer of this service."""

import asyncio
from dataclasses import dataclass

from longhaul_core.db import Database, resources
from longhaul_core.errors import DataLoss
from longhaul_core.ids import Collection, parse_name
from longhaul_core.manifests import read_manifest
from longhaul_core.objects import ObjectStore

from longhaul_corpus.adapters.records import TOKENIZER
from longhaul_corpus.adapters.upstream import Datasets, Lost, Pending
from longhaul_corpus.adapters.workspace import Input
from longhaul_corpus.domain.jobs import TERMINAL, JobState
from longhaul_corpus.domain.spec import BuildSpec


@dataclass(frozen=True, slots=True)
class Found:
    """All inputs of a job."""

    datasets: tuple[Input, ...]
    tokenizer: Input | None = None


class Inputs:
    """Resolves names to committed resources."""

    def __init__(self, db: Database, store: ObjectStore, datasets: Datasets) -> None:
        self._db = db
        self._store = store
        self._datasets = datasets

    async def find(self, project: str, spec: BuildSpec) -> Found | Pending | Lost:
        """Return all inputs of a build, or the first that is missing."""
        tokenizer = await self._find_tokenizer(spec.tokenizer) if spec.tokenizer else None
        if isinstance(tokenizer, Lost):
            return tokenizer
        datasets = await self.find_datasets(spec.datasets)
        if isinstance(datasets, Pending | Lost):
            return datasets
        return tokenizer if isinstance(tokenizer, Pending) else Found(datasets, tokenizer)

    async def find_datasets(self, names: tuple[str, ...]) -> tuple[Input, ...] | Pending | Lost:
        """Return all datasets; where one is lost that one, else the first that is missing."""
        answers = [await self._datasets.find(name) for name in names]
        for kind in (Lost, Pending):
            for answer in answers:
                if isinstance(answer, kind):
                    return answer
        return tuple(answer for answer in answers if isinstance(answer, Input))

    async def shard_keys(self, found: Found) -> list[str]:
        """Keys of the Parquet files of all datasets, in order. Raises DataLoss where a dataset is not what it was."""
        return await asyncio.to_thread(self._shard_keys, found)

    def _shard_keys(self, found: Found) -> list[str]:
        return [key for dataset in found.datasets for key in dataset_shards(self._store, dataset)]

    async def _find_tokenizer(self, name: str) -> Input | Pending | Lost:
        parsed = parse_name(name, Collection.TOKENIZERS)
        row = await self._db.read(lambda session: resources.find(session, TOKENIZER, parsed.project, parsed.id))
        if row is None:
            return Pending("TOKENIZER_UNKNOWN", f"No tokenizer {name} exists.")
        if row.state == JobState.SUCCEEDED:
            return Input(name, row.status["manifest_key"], row.status["manifest_digest"])
        if JobState(row.state) in TERMINAL:
            cause = row.status["reason"]
            return Lost("TOKENIZER_FAILED", f"{name} failed: {cause['message']}", cause["action"])
        return Pending("TOKENIZER_NOT_READY", f"The tokenizer {name} is not ready.")


def dataset_shards(store: ObjectStore, dataset: Input) -> list[str]:
    """Keys of the document files of a committed dataset."""
    manifest = read_manifest(store, dataset.manifest_key)
    if manifest.digest != dataset.digest:
        raise DataLoss(
            f"Dataset {dataset.name} is not the one that was committed",
            reason="DATASET_CHANGED",
            metadata={"manifest_key": dataset.manifest_key, "expected": dataset.digest, "found": manifest.digest},
        )
    return sorted(part.key for part in manifest.parts if part.key.rpartition("/")[2].startswith("shard-"))
