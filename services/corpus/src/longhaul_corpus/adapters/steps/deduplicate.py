"""Duplicates over all shards, and the held-out split by cluster."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from longhaul_core.engine import report
from longhaul_core.errors import FailedPrecondition

from longhaul_corpus.adapters.documents import open_shard, whole_pages
from longhaul_corpus.adapters.steps.repeats import score_names
from longhaul_corpus.adapters.workspace import DUPLICATES_FILE, Array, Shard, Workspace
from longhaul_corpus.domain.duplicates import DocumentKeys, DuplicatePolicy, DuplicateRule, Duplicates, find_duplicates
from longhaul_corpus.domain.hashing import Hashes
from longhaul_corpus.domain.minhash import estimate_similarity
from longhaul_corpus.domain.mixture import check_sources
from longhaul_corpus.domain.outcomes import Outcome, count_outcomes
from longhaul_corpus.domain.split import SplitPolicy, hold_out

KINDS = {DuplicateRule.EXACT_TEXT: "exact", DuplicateRule.SAME_URL: "url", DuplicateRule.NEAR_DUPLICATE: "near"}
IDENTITIES_AT_ONCE = 16_384


def deduplicate(workspace: Workspace, item: dict[str, Any]) -> dict[str, Any]:
    """Decide on every document: kept for training, held out, or duplicate of which; returns the counts."""
    shards, names, sources = _join_shards(workspace, item["shards"])
    rules = workspace.spec.deduplication
    keys = _keys(workspace, shards)
    policy = DuplicatePolicy(rules.exact, rules.url, rules.minhash, rules.keep != "first")
    duplicates = find_duplicates(keys, _bands(workspace, shards), policy)
    held_out = hold_out(duplicates.stays, duplicates.clusters, sources, keys.text_low, _split_policy(workspace))
    outcomes = np.full(len(held_out), Outcome.DUPLICATE, dtype=np.uint8)
    outcomes[duplicates.stays] = Outcome.TRAIN
    outcomes[held_out] = Outcome.VALID
    workspace.put_json("sources.json", names)
    workspace.put_shards(shards)
    for name, values in (
        ("outcome", outcomes),
        ("rule", duplicates.rules),
        ("kept", duplicates.kept),
        ("cluster", duplicates.clusters),
        ("source", sources.astype(np.uint16)),
        ("length", keys.lengths),
        ("content", keys.text_low),
    ):
        workspace.put_column(f"documents/{name}", values)
    del keys, sources, held_out  # the pairs need room of their own
    for name in score_names(workspace):
        workspace.put_column(f"documents/score-{name}", np.asarray(_scores(workspace, shards, name)))
    _write_pairs(workspace, shards, duplicates)
    failed = sum(row["documents"] for row in item["lost"])
    lost = {"failed": failed, "lost": [row["lost"] for row in item["lost"]]}
    return {"documents": len(outcomes) + failed, **lost, **count_outcomes(outcomes), **_by_rule(duplicates)}


def _join_shards(workspace: Workspace, rows: list[dict[str, Any]]) -> tuple[list[Shard], list[str], Array]:
    """Number the documents and the sources over all shards. Raises where there is no document."""
    ends = np.cumsum([row["documents"] for row in rows])
    shards = [
        Shard(row["shard"], row["key"], int(end) - row["documents"], row["documents"])
        for row, end in zip(rows, ends, strict=True)
    ]
    if not rows or not ends[-1]:
        raise FailedPrecondition(
            "The datasets hold no document",
            reason="DATASET_EMPTY",
            action="Look at the ingestion's drop reasons: every record was dropped or failed.",
        )
    names = sorted({name for row in rows for name in row["sources"]})
    check_sources(workspace.spec.mixture, names)
    numbers = [np.array([names.index(name) for name in row["sources"]], dtype=np.int64) for row in rows]
    local = [workspace.column(f"signatures/{shard.number:05d}/source", np.uint16) for shard in shards]
    return shards, names, np.concatenate([table[values] for table, values in zip(numbers, local, strict=True)])


def _keys(workspace: Workspace, shards: list[Shard]) -> DocumentKeys:
    text = np.empty((2, shards[-1].offset + shards[-1].documents), dtype=np.uint64)
    for shard in shards:  # filled in place: joining the parts would hold them twice
        halves = _column(workspace, shard, "text", np.uint64).reshape(2, -1)
        text[:, shard.offset : shard.offset + shard.documents] = halves
    return DocumentKeys(
        text_high=text[0],
        text_low=text[1],
        url=np.concatenate([_column(workspace, s, "url", np.uint64) for s in shards]),
        lengths=np.concatenate([_column(workspace, s, "length", np.int64) for s in shards]),
        banded=np.concatenate([_column(workspace, s, "banded", np.bool_) for s in shards]),
        scores=_scores(workspace, shards, workspace.spec.deduplication.keep_score),
    )


def _scores(workspace: Workspace, shards: list[Shard], name: str) -> Array | None:
    if not name:
        return None
    return np.concatenate([_column(workspace, shard, f"score-{name}", np.float32) for shard in shards])


def _column(workspace: Workspace, shard: Shard, name: str, dtype: type[np.generic]) -> Array:
    return workspace.column(f"signatures/{shard.number:05d}/{name}", dtype)


def _bands(workspace: Workspace, shards: list[Shard]) -> Iterator[Hashes]:
    """Yield the digests of one band of all documents at a time."""
    bands = workspace.spec.deduplication.bands
    for band in range(bands):
        report({"done": band, "total": bands})
        yield np.concatenate(
            [
                workspace.column(f"signatures/{s.number:05d}/bands", np.uint64, band * s.documents, s.documents)
                for s in shards
            ]
        )


def _sketches(workspace: Workspace, shard: Shard, needed: Array) -> Array:
    """Sketches of some documents of a shard: uint8[documents, bytes]."""
    first, last = np.searchsorted(needed, (shard.offset, shard.offset + shard.documents))
    every = _column(workspace, shard, "sketch", np.uint8).reshape(shard.documents, -1)
    return np.asarray(every[needed[first:last] - shard.offset])


def _identities(workspace: Workspace, shard: Shard, needed: Array) -> pa.Table:
    """Ids and URLs of some documents of a shard, read a batch at a time: most are not needed."""
    file = open_shard(workspace.store, shard.key)
    start = shard.offset
    tables = [file.schema_arrow.empty_table().select(["id", "url"])]
    with whole_pages():
        for batch in file.iter_batches(IDENTITIES_AT_ONCE, columns=["id", "url"]):
            first, last = np.searchsorted(needed, (start, start + batch.num_rows))
            tables.append(pa.table(batch.take(pa.array(needed[first:last] - start))))
            start += batch.num_rows
    return pa.concat_tables(tables)


def _split_policy(workspace: Workspace) -> SplitPolicy:
    holdout = workspace.spec.holdout
    return SplitPolicy(holdout.fraction, holdout.minimum_documents, holdout.maximum_documents, holdout.seed)


def _by_rule(duplicates: Duplicates) -> dict[str, int]:
    return {f"duplicate_{kind}": int((duplicates.rules == rule).sum()) for rule, kind in KINDS.items()}


def _write_pairs(workspace: Workspace, shards: list[Shard], duplicates: Duplicates) -> None:
    """Write which document was dropped for which, with an estimate of how similar they are."""
    dropped = np.flatnonzero(~duplicates.stays)
    kept = duplicates.kept[dropped]
    rules = workspace.spec.deduplication
    needed = np.union1d(dropped, kept)
    left, right = np.searchsorted(needed, dropped), np.searchsorted(needed, kept)
    sketches = np.concatenate([_sketches(workspace, shard, needed) for shard in shards])
    similarity = estimate_similarity(sketches[left], sketches[right], rules.bands * rules.rows)
    similarity[duplicates.rules[dropped] == DuplicateRule.EXACT_TEXT] = 1.0
    identities = pa.concat_tables([_identities(workspace, shard, needed) for shard in shards])
    ours, theirs = identities.take(pa.array(left)), identities.take(pa.array(right))
    table = pa.table(
        {
            "document_id": ours["id"],
            "kept_document_id": theirs["id"],
            "kind": pa.array([KINDS[DuplicateRule(rule)] for rule in duplicates.rules[dropped]], pa.string()),
            "similarity": pa.array(similarity),
            "url": ours["url"],
            "kept_url": theirs["url"],
        }
    )
    with workspace.store.open_write(f"{workspace.context.prefix}/{DUPLICATES_FILE}") as sink:
        pq.write_table(table, sink, compression="zstd")
