"""One row a document of the datasets: what became of it, by which rule, in favour of which other."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from longhaul_core.manifests import Part, hash_object

from longhaul_corpus.adapters.documents import open_shard, whole_pages
from longhaul_corpus.adapters.steps.decontaminate import read_verdicts
from longhaul_corpus.adapters.steps.deduplicate import KINDS
from longhaul_corpus.adapters.workspace import Array, Shard, Workspace
from longhaul_corpus.domain.duplicates import DuplicateRule
from longhaul_corpus.domain.outcomes import Outcome, Outcomes

ACCOUNTING_FILE = "accounting.parquet"
LARGEST_CLUSTERS = 20
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("outcome", pa.string()),
        ("rule", pa.string()),
        ("duplicate_of", pa.string()),
        ("cluster", pa.int64()),
        ("cluster_size", pa.int64()),
        ("copies", pa.uint8()),
        ("source", pa.string()),
        ("url", pa.string()),
    ]
)


def write_accounting(workspace: Workspace, outcomes: Outcomes) -> Part:
    """Write the accounting, shard by shard.

    `rule` is the kind of duplicate, or the tasks that a document was dropped or cut for. Copies of one text have one
    id; source and URL tell them apart.
    """
    key = f"{workspace.context.prefix}/{ACCOUNTING_FILE}"
    ids, rules = _ids(workspace), _rules(workspace, outcomes)
    with workspace.store.open_write(key) as sink, pq.ParquetWriter(sink, _SCHEMA, compression="zstd") as writer:
        for shard in workspace.shards():
            writer.write_table(_shard_accounting(workspace, shard, ids, outcomes, rules))
    return Part(key=key, size=workspace.store.stat(key).size, digest=hash_object(workspace.store, key))


def _shard_accounting(workspace: Workspace, shard: Shard, ids: pa.Array, outcomes: Outcomes, rules: Array) -> pa.Table:
    rows = slice(shard.offset, shard.offset + shard.documents)
    names = np.array([outcome.name.lower() for outcome in Outcome])
    kept = workspace.column("documents/kept", np.int64, shard.offset, shard.documents)
    own = np.arange(shard.offset, shard.offset + shard.documents)
    stays = (outcomes[rows] != Outcome.DUPLICATE) | (kept == own)
    sizes = np.bincount(workspace.column("documents/cluster", np.int64))
    clusters = workspace.column("documents/cluster", np.int64, shard.offset, shard.documents)
    with whole_pages():
        described = open_shard(workspace.store, shard.key).read(columns=["source", "url"])
    columns = [
        ids.slice(shard.offset, shard.documents),
        pa.array(names[outcomes[rows]]),
        pa.array(rules[rows]),
        pa.array(ids.take(pa.array(kept)).to_pylist(), pa.string(), mask=stays),
        pa.array(clusters),
        pa.array(sizes[clusters]),
        pa.array(workspace.column("documents/copies", np.uint8, shard.offset, shard.documents)),
        described["source"].cast(pa.string()),
        described["url"].cast(pa.string()),
    ]
    return pa.table(columns, schema=_SCHEMA)


def largest_clusters(workspace: Workspace) -> list[dict[str, Any]]:
    """Biggest groups of near copies: how many documents, which one is kept."""
    clusters = workspace.column("documents/cluster", np.int64)
    kept = workspace.column("documents/kept", np.int64)
    labels, sizes = np.unique(clusters, return_counts=True)
    order = np.lexsort((labels, -sizes))[:LARGEST_CLUSTERS]
    biggest = [(int(labels[place]), int(sizes[place])) for place in order if sizes[place] > 1]
    names = _names(workspace, [int(kept[label]) for label, _ in biggest])
    return [
        {"cluster": label, "documents": size, "kept": name["id"], "url": name["url"]}
        for (label, size), name in zip(biggest, names, strict=True)
    ]


def _ids(workspace: Workspace) -> pa.Array:
    """Ids of all documents of the datasets, in order."""
    with whole_pages():
        columns = [open_shard(workspace.store, shard.key).read(columns=["id"])["id"] for shard in workspace.shards()]
    return pa.concat_arrays([chunk for column in columns for chunk in column.chunks])


def _rules(workspace: Workspace, outcomes: Outcomes) -> Array:
    kinds = np.array(["", *(KINDS[rule] for rule in DuplicateRule if rule)], dtype=object)
    rules = kinds[workspace.column("documents/rule", np.uint8)]
    rules[(rules == "") & (outcomes == Outcome.DUPLICATE)] = "passages"
    rules[outcomes != Outcome.DUPLICATE] = ""
    tasks, _ = read_verdicts(workspace)
    for ordinal, names in tasks.items():
        rules[ordinal] = names
    return np.asarray(rules)


def _names(workspace: Workspace, ordinals: list[int]) -> list[dict[str, str]]:
    """Id and URL of single documents."""
    shards: list[Shard] = workspace.shards()
    starts = np.array([shard.offset for shard in shards])
    found = []
    for ordinal in ordinals:
        shard = shards[int(np.searchsorted(starts, ordinal, side="right")) - 1]
        table = open_shard(workspace.store, shard.key).read(columns=["id", "url"])
        row = table.slice(ordinal - shard.offset, 1).to_pylist()[0]
        found.append({"id": row["id"], "url": row["url"] or ""})
    return found
