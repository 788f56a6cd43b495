"""Training documents against the n-grams of the evaluation tasks: matches a shard, then the verdict over all shards."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from longhaul_core.engine import report

from longhaul_corpus.adapters.steps.evaluation import GRAMS
from longhaul_corpus.adapters.steps.passages import dropped_documents
from longhaul_corpus.adapters.steps.repeats import copies_of
from longhaul_corpus.adapters.steps.texts import read_texts
from longhaul_corpus.adapters.workspace import Array, Shard, Workspace
from longhaul_corpus.domain.contamination import (
    GramIndex,
    Matches,
    join_matches,
    match_document,
    spans_of,
    summarise,
    tasks_by_document,
    without_common,
)
from longhaul_corpus.domain.cutting import cut_sentences
from longhaul_corpus.domain.outcomes import Outcome, count_outcomes
from longhaul_corpus.domain.words import simplified_bytes

VERDICTS = "contaminated.parquet"
"""Columns ordinal, tasks (comma-separated), text (what is left of a cut document, null for a dropped one)."""


def match_shard(workspace: Workspace, item: dict[str, Any]) -> dict[str, Any]:
    """Write where the training documents of one shard hold a gram of an evaluation item."""
    shard = workspace.shards()[item["shard"]]
    index = _index(workspace)
    outcomes = workspace.column("documents/outcome", np.uint8, shard.offset, shard.documents)
    parts: list[Matches] = []
    wanted = outcomes == Outcome.TRAIN
    for ordinals, texts in read_texts(workspace, shard, wanted, {}):
        for ordinal, text in zip(ordinals.tolist(), texts, strict=True):
            parts.append(match_document(ordinal, simplified_bytes(text), index))
        report({"done": int(ordinals[-1]) - shard.offset + 1, "total": shard.documents})
    found = join_matches(parts)
    workspace.put_arrays(_matches_name(shard), {name: getattr(found, name) for name in found.__dataclass_fields__})
    return {"matches": len(found.documents)}


def settle(workspace: Workspace, item: dict[str, Any]) -> dict[str, Any]:
    """Decide on every contaminated document and write the final outcomes; returns the counts and a report by task."""
    outcomes = np.array(workspace.column("documents/outcome", np.uint8))
    emptied = dropped_documents(workspace)
    outcomes[emptied] = Outcome.DUPLICATE
    tasks = [str(task["name"]) for task in item["tasks"]]
    if not item["checked"]:
        _write_verdicts(workspace, {}, {})
        repeats = _finish(workspace, outcomes)
        return {**count_outcomes(outcomes), **repeats, "cut": 0, "common_grams": 0, "tasks": []}
    index = _index(workspace)
    everything = join_matches([_load_matches(workspace, shard) for shard in workspace.shards()])
    matches, common = without_common(everything, int((outcomes == Outcome.TRAIN).sum()))
    found = tasks_by_document(matches, index)
    gone = set(emptied.tolist())
    guilty = {
        document: ",".join(tasks[number] for number in numbers)
        for document, numbers in found.items()
        if document not in gone
    }
    cut = _cut(workspace, matches, index) if workspace.spec.decontamination.action == "cut" else {}
    outcomes[[document for document in guilty if document not in cut]] = Outcome.CONTAMINATED
    _write_verdicts(workspace, guilty, cut)
    repeats = _finish(workspace, outcomes)
    summaries = [{"task": name, **asdict(summarise(matches, index, number))} for number, name in enumerate(tasks)]
    return {**count_outcomes(outcomes), **repeats, "cut": len(cut), "common_grams": common, "tasks": summaries}


def _finish(workspace: Workspace, outcomes: Array) -> dict[str, int]:
    """Apply the sampling rules to what is left of the training side, and write outcomes and copies."""
    copies = copies_of(workspace, outcomes)
    outcomes[(outcomes == Outcome.TRAIN) & (copies == 0)] = Outcome.SAMPLED_OUT
    workspace.put_column("documents/copies", copies)
    workspace.put_column("documents/final", outcomes)
    extra = copies[outcomes == Outcome.TRAIN].astype(np.int64) - 1
    return {"extra_copies": int(extra.sum())}


def read_verdicts(workspace: Workspace) -> tuple[dict[int, str], dict[int, str]]:
    """Tasks of each contaminated document, and the text that is left of each cut one, by ordinal."""
    table = pq.read_table(pa.BufferReader(workspace.store.get(workspace.key(VERDICTS)))).to_pydict()
    tasks = dict(zip(table["ordinal"], table["tasks"], strict=True))
    cut = {o: text for o, text in zip(table["ordinal"], table["text"], strict=True) if text is not None}
    return tasks, cut


def _matches_name(shard: Shard) -> str:
    return f"matches/{shard.number:05d}.npz"


def _index(workspace: Workspace) -> GramIndex:
    return GramIndex(**workspace.arrays(GRAMS))


def _load_matches(workspace: Workspace, shard: Shard) -> Matches:
    return Matches(**workspace.arrays(_matches_name(shard)))


def _cut(workspace: Workspace, matches: Matches, index: GramIndex) -> dict[int, str]:
    """Texts of the guilty documents without the contaminated sentences; documents of which too little is left lack."""
    left: dict[int, str] = {}
    for shard in workspace.shards():
        ours = (matches.documents >= shard.offset) & (matches.documents < shard.offset + shard.documents)
        wanted = np.zeros(shard.documents, dtype=np.bool_)
        wanted[matches.documents[ours] - shard.offset] = True
        for ordinals, texts in read_texts(workspace, shard, wanted, {}):
            for ordinal, text in zip(ordinals.tolist(), texts, strict=True):
                remainder = cut_sentences(text, spans_of(matches, index, ordinal))
                if remainder is not None:
                    left[ordinal] = remainder
    return left


def _write_verdicts(workspace: Workspace, guilty: dict[int, str], cut: dict[int, str]) -> None:
    table = pa.table(
        {
            "ordinal": pa.array(list(guilty), pa.int64()),
            "tasks": pa.array(list(guilty.values()), pa.string()),
            "text": pa.array([cut.get(document) for document in guilty], pa.large_string()),
        }
    )
    with workspace.store.open_write(workspace.key(VERDICTS)) as sink:
        pq.write_table(table, sink, compression="zstd")
