"""A build's phases run step by step without a service, each step by a function that a test may replace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from longhaul_core.manifests import Manifest, read_manifest, write_manifest
from longhaul_core.objects import ObjectStore, open_store
from longhaul_corpus.adapters.steps.run import STEPS
from longhaul_corpus.adapters.workspace import BuildContext, Input, Workspace
from longhaul_corpus.domain.phases import PHASES, Phase, phase_items, signature_items
from longhaul_corpus.domain.spec import BuildSpec, Holdout, TokenizerTraining
from tokenizers import Tokenizer

Row = dict[str, Any]
Results = dict[Phase, list[dict[str, Any]]]
RunStep = Callable[[BuildContext, Phase, dict[str, Any]], dict[str, Any]]
COLUMNS = ("id", "source", "url", "text", "scores")
MADE = datetime(2026, 1, 1, tzinfo=UTC)


def here(context: BuildContext, phase: Phase, item: dict[str, Any]) -> dict[str, Any]:
    """Run a step in this process."""
    return STEPS[phase](Workspace(context), item)


def build(folder: Path, rows: Sequence[Row], *, url: str = "", run: RunStep = here, **spec: Any) -> Results:
    """Write the rows as two dataset shards and run all phases over them; returns the results of each.

    All is in `folder`, unless `url` names another object store.
    """
    url = url or f"file://{folder}"
    store = open_store(url)
    keys = [_write_rows(store, number, rows[number::2]) for number in range(2)]
    dataset = Manifest(kind="dataset", name="d", uid="u", created=MADE, parts=[], counts={"kept": len(rows)})
    digest = write_manifest(store, "data/manifest.json", dataset).digest
    asked = BuildSpec(
        **{
            "datasets": ("d",),
            "training": TokenizerTraining(vocabulary_size=400),
            "holdout": Holdout(fraction=0.05),
            **spec,
        }
    )
    name = "projects/p/tokenSets/s"
    inputs = (Input("d", "data/manifest.json", digest),)
    context = BuildContext(url, "set", "tok", name, "u", MADE, "t", asked, inputs)
    results: Results = {}
    for phase in PHASES:
        items = [{}] if phase is Phase.PREPARE else phase_items(phase, asked, results)
        items = signature_items(keys) if phase is Phase.SIGNATURES else items
        results[phase] = [run(context, phase, item) for item in items]
    assert read_manifest(store, "set/manifest.json").counts["documents"] == len(rows)
    return results


def _write_rows(store: ObjectStore, number: int, rows: Sequence[Row]) -> str:
    blank = {"source": "web", "url": None, "scores": None}
    table = pa.Table.from_pylist(
        [{"id": f"{2 * n + number:032x}", **blank, **row} for n, row in enumerate(rows)],
        schema=pa.schema([(name, pa.string()) for name in COLUMNS]),
    )
    key = f"data/{number}.parquet"
    with store.open_write(key) as sink:
        pq.write_table(table, sink, row_group_size=7, write_page_checksum=True)
    return key


def accounting(folder: Path) -> list[dict[str, Any]]:
    """What became of each document."""
    found: list[dict[str, Any]] = pq.read_table(folder / "set/accounting.parquet").to_pylist()
    return found


def decoded(folder: Path, split: str = "train") -> list[str]:
    """Texts of a split of the token set, as they come out of the tokens."""
    tokenizer = Tokenizer.from_file(str(folder / "tok/tokenizer.json"))
    texts = []
    for path in sorted((folder / "set" / split).rglob("*.ds")):
        ends = np.fromfile(f"{path}.index", dtype="<u8")
        for ids in np.split(np.fromfile(path, dtype="<u2"), ends[:-1].astype(np.int64)):
            texts.append(tokenizer.decode(ids[:-1].tolist()))
    return texts
