"""Tokens of one dataset shard, sorted by split, source and seeded order, so that output shards read ranges of them."""

from typing import Any

import numpy as np
from longhaul_core.engine import report

from longhaul_corpus.adapters.steps.decontaminate import read_verdicts
from longhaul_corpus.adapters.steps.texts import read_texts
from longhaul_corpus.adapters.tokenizer_store import load_tokenizer
from longhaul_corpus.adapters.workspace import Array, Shard, Workspace
from longhaul_corpus.domain.fast_encoding import CheckedEncoder, fast_encoding
from longhaul_corpus.domain.ordering import COPY, SHUFFLE, order_keys
from longhaul_corpus.domain.outcomes import Outcome
from longhaul_corpus.domain.tokenizer import Encoder


def tokenise_shard(workspace: Workspace, item: dict[str, Any]) -> dict[str, Any]:
    """Write the token ids of the shard's kept documents; returns how many."""
    shard = workspace.shards()[item["shard"]]
    stored = load_tokenizer(workspace.store, item["manifest_key"], item["manifest_digest"])
    encoder = Encoder(stored.tokenizer, stored.end_of_text)
    outcomes = workspace.column("documents/final", np.uint8, shard.offset, shard.documents)
    fast = fast_encoding(stored.tokenizer)
    checked = CheckedEncoder(encoder, fast) if fast is not None else None
    tokens, rows, text_bytes = _encode(workspace, shard, checked or encoder, outcomes)
    if checked is not None and checked.differs:
        tokens, rows, text_bytes = _encode(workspace, shard, encoder, outcomes)
    copies = workspace.column("documents/copies", np.uint8, shard.offset, shard.documents)[rows].astype(np.int64)
    index = _index(workspace, shard, outcomes, rows, copies)
    places = np.repeat(np.arange(len(rows)), copies)
    order = np.lexsort((places, index["key"], index["group"]))
    sizes = np.array([len(ids) for ids in tokens], dtype=np.int64)[places]
    folder = f"tokens/{shard.number:05d}"
    empty = np.empty(0, dtype=encoder.dtype)
    workspace.put_column(f"{folder}/ids", np.concatenate([empty, *(tokens[places[number]] for number in order)]))
    workspace.put_arrays(
        f"{folder}/index.npz",
        {
            "group": index["group"][order],
            "key": index["key"][order],
            "tokens": sizes[order],
            "bytes": np.array(text_bytes, dtype=np.int64)[places][order],
        },
    )
    engine = "fast" if checked is not None and not checked.differs else "reference"
    return {"documents": len(rows), "tokens": int(sizes.sum()), "text_bytes": sum(text_bytes), "engine": engine}


def group_number(source: int, valid: bool) -> int:
    """Number of the (split, source) pair that a document belongs to."""
    return 2 * source + int(valid)


def _encode(
    workspace: Workspace, shard: Shard, encoder: Encoder | CheckedEncoder, outcomes: Array
) -> tuple[list[Array], Array, list[int]]:
    """Encode the kept documents; returns their tokens, rows in the shard, and bytes of text."""
    _, cut = read_verdicts(workspace)
    tokens: list[Array] = []
    rows: list[int] = []
    text_bytes: list[int] = []
    for ordinals, texts in read_texts(workspace, shard, outcomes <= Outcome.VALID, cut):
        tokens += encoder.documents(texts)
        rows += (ordinals - shard.offset).tolist()
        text_bytes += [len(text.encode("utf-8", "surrogatepass")) for text in texts]
        report({"done": rows[-1] + 1, "total": shard.documents})
    return tokens, np.array(rows, dtype=np.int64), text_bytes


def _index(workspace: Workspace, shard: Shard, outcomes: Array, rows: Array, copies: Array) -> dict[str, Array]:
    """Group and order key of each copy of each document; the first copy's key is the document's own."""
    sources = workspace.column("documents/source", np.uint16, shard.offset, shard.documents)[rows].astype(np.int64)
    content = workspace.column("documents/content", np.uint64, shard.offset, shard.documents)[rows]
    number = np.arange(int(copies.sum())) - np.repeat(np.cumsum(copies) - copies, copies)
    repeated = np.repeat(content, copies)
    other = order_keys(repeated + number.astype(np.uint64), workspace.spec.shuffle_seed, COPY)
    return {
        "group": np.repeat(2 * sources + (outcomes[rows] == Outcome.VALID), copies),
        "key": order_keys(np.where(number > 0, other, repeated), workspace.spec.shuffle_seed, SHUFFLE),
    }
