"""The build's tokenizer: trained on its training side, or the one named; scored on a sample of every source."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from longhaul_core.engine import report
from longhaul_core.errors import FailedPrecondition

from longhaul_corpus.adapters.steps.decontaminate import read_verdicts
from longhaul_corpus.adapters.steps.texts import read_texts
from longhaul_corpus.adapters.tokenizer_store import StoredTokenizer, commit_tokenizer, load_tokenizer
from longhaul_corpus.adapters.workspace import Array, Shard, Workspace
from longhaul_corpus.domain.outcomes import Outcome
from longhaul_corpus.domain.pieces import COUNTS_SCHEMA, PieceCounter, add_counts
from longhaul_corpus.domain.sampling import sample_bytes, sample_mixture
from longhaul_corpus.domain.scores import TokenizerScore, score_texts, total_score
from longhaul_corpus.domain.spec import TokenizerTraining
from longhaul_corpus.domain.tokenizer import Encoder, train_from_counts, train_tokenizer, vocabulary_notes

SCORE_BYTES = 1 << 20
"""Sample of each source that the figures are measured on."""


def make_tokenizer(workspace: Workspace, item: dict[str, Any]) -> dict[str, Any]:
    """Train or load the tokenizer and score it; returns where it is and its figures."""
    stored = _load(workspace) if workspace.context.tokenizer else _train(workspace, counted=item.get("counted", False))
    scores = _score(workspace, stored)
    rows = [score.as_dict() for score in (*scores, total_score(scores, "total"))]
    return {**stored.as_dict(), "scores": rows, "notes": vocabulary_notes(stored.vocabulary_size)}


def _load(workspace: Workspace) -> StoredTokenizer:
    named = workspace.context.tokenizer
    if named is None:
        raise FailedPrecondition("The build names no tokenizer", reason="TOKENIZER_MISSING")
    return load_tokenizer(workspace.store, named.manifest_key, named.digest)


def _train(workspace: Workspace, *, counted: bool) -> StoredTokenizer:
    context, training = workspace.context, _training(workspace)
    chosen = _training_sample(workspace, training.maximum_bytes)
    if counted:
        counts = add_counts([_read_counts(workspace, shard) for shard in workspace.shards()])
        tokenizer = train_from_counts(counts, training)
    else:
        tokenizer = train_tokenizer(_texts(workspace, chosen), training)
    return commit_tokenizer(
        workspace.store,
        context.tokenizer_prefix,
        tokenizer,
        name=context.tokenizer_name,
        uid=context.uid,
        created=context.created,
        end_of_text=training.end_of_text,
        inputs=[(dataset.name, dataset.digest) for dataset in context.datasets],
        documents=int(chosen.sum()),
    )


def count_pieces(workspace: Workspace, item: dict[str, Any]) -> dict[str, Any]:
    """Write how often each piece stands in the documents of a shard that the tokenizer is trained on."""
    shard = workspace.shards()[item["shard"]]
    training = _training(workspace)
    counter = PieceCounter(training)
    chosen = _training_sample(workspace, training.maximum_bytes)
    for texts in _texts_of(workspace, shard, chosen, read_verdicts(workspace)[1]):
        counter.add(texts)
    found = counter.table()
    pieces: list[bytes] = found["piece"].to_pylist()
    folder = _counts_folder(shard)
    workspace.put_column(f"{folder}/text", np.frombuffer(b"".join(pieces), dtype=np.uint8))
    workspace.put_column(f"{folder}/size", np.array([len(piece) for piece in pieces], dtype=np.int64))
    workspace.put_column(f"{folder}/count", found["count"].to_numpy())
    return {"pieces": len(pieces)}


def _read_counts(workspace: Workspace, shard: Shard) -> pa.Table:
    folder = _counts_folder(shard)
    sizes = workspace.column(f"{folder}/size", np.int64)
    offsets = pa.py_buffer(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
    text = pa.py_buffer(workspace.column(f"{folder}/text", np.uint8))
    pieces = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(sizes), [None, offsets, text])
    return pa.table([pieces, pa.array(workspace.column(f"{folder}/count", np.int64))], schema=COUNTS_SCHEMA)


def _counts_folder(shard: Shard) -> str:
    return f"pieces/{shard.number:05d}"


def _training(workspace: Workspace) -> TokenizerTraining:
    if workspace.spec.training is None:
        raise FailedPrecondition("The build neither names nor trains a tokenizer", reason="TOKENIZER_MISSING")
    return workspace.spec.training


def _training_sample(workspace: Workspace, maximum_bytes: int) -> Array:
    names = workspace.sources()
    return sample_mixture(
        workspace.column("documents/final", np.uint8) == Outcome.TRAIN,
        workspace.column("documents/source", np.uint16).astype(np.int64),
        {names.index(entry.source): entry.weight for entry in workspace.spec.mixture},
        workspace.column("documents/content", np.uint64),
        workspace.column("documents/length", np.int64),
        maximum_bytes,
    )


def _texts(workspace: Workspace, chosen: Array) -> Iterator[list[str]]:
    _, cut = read_verdicts(workspace)
    for shard in workspace.shards():
        yield from _texts_of(workspace, shard, chosen, cut)


def _texts_of(workspace: Workspace, shard: Shard, chosen: Array, cut: dict[int, str]) -> Iterator[list[str]]:
    """Texts of the chosen documents of a shard."""
    wanted = chosen[shard.offset : shard.offset + shard.documents]
    for ordinals, texts in read_texts(workspace, shard, wanted, cut):
        report({"done": int(ordinals[-1]) - shard.offset + 1, "total": shard.documents})
        yield texts


def _score(workspace: Workspace, stored: StoredTokenizer) -> list[TokenizerScore]:
    """Score on a seeded sample of the kept documents of each source, held out or not."""
    encoder = Encoder(stored.tokenizer, stored.end_of_text)
    sources = workspace.column("documents/source", np.uint16)
    kept = workspace.column("documents/final", np.uint8) <= Outcome.VALID
    content = workspace.column("documents/content", np.uint64)
    lengths = workspace.column("documents/length", np.int64)
    scores = []
    for number, name in enumerate(workspace.sources()):
        chosen = sample_bytes(kept & (sources == number), content, lengths, SCORE_BYTES, 0)
        texts = [text for batch in _texts(workspace, chosen) for text in batch]
        if texts:
            scores.append(score_texts(name, texts, encoder))
    return scores
