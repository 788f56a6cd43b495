"""Tokenizers by themselves, in a worker process: import, training on whole datasets, scoring on a sample of one."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow.compute as pc
from longhaul_core.objects import ObjectStore
from pydantic import TypeAdapter

from longhaul_corpus.adapters.documents import batches, open_shard, selected
from longhaul_corpus.adapters.inputs import dataset_shards
from longhaul_corpus.adapters.tokenizer_store import StoredTokenizer, commit_tokenizer, load_tokenizer
from longhaul_corpus.adapters.workspace import Array, Input, shared_store
from longhaul_corpus.domain.ordering import SAMPLE, order_keys
from longhaul_corpus.domain.sampling import sample_bytes
from longhaul_corpus.domain.scores import score_texts, total_score
from longhaul_corpus.domain.spec import TokenizerTraining
from longhaul_corpus.domain.tokenizer import Encoder, read_tokenizer, train_tokenizer, vocabulary_notes

SCORE_DOCUMENTS = 200
_TRAINING = TypeAdapter(TokenizerTraining)


def import_step(payload: dict[str, Any]) -> dict[str, Any]:
    """Read the uploaded `tokenizer.json`, check it and commit it."""
    store = shared_store(payload["store_url"])
    tokenizer, end_of_text = read_tokenizer(store.get(payload["spec"]["import_key"]), payload["spec"]["end_of_text"])
    return _describe(_commit(store, payload, tokenizer, end_of_text, 0), [])


def train_step(payload: dict[str, Any]) -> dict[str, Any]:
    """Train on the datasets, sampled down to the maximum, and score on a sample of them."""
    store = shared_store(payload["store_url"])
    training = _TRAINING.validate_python(payload["spec"]["training"])
    datasets = [Input(**row) for row in payload["datasets"]]
    keys = [key for dataset in datasets for key in dataset_shards(store, dataset)]
    chosen = _sample_bytes(store, keys, training.maximum_bytes)
    tokenizer = train_tokenizer(_texts(store, keys, chosen), training)
    stored = _commit(store, payload, tokenizer, training.end_of_text, sum(int(rows.sum()) for rows in chosen))
    return _describe(stored, _score(store, keys, _sample_documents(store, keys, SCORE_DOCUMENTS, 0), stored))


def score_step(payload: dict[str, Any]) -> dict[str, Any]:
    """Score a committed tokenizer on a seeded sample of a dataset."""
    store = shared_store(payload["store_url"])
    stored = load_tokenizer(store, payload["manifest_key"], payload["manifest_digest"])
    keys = dataset_shards(store, Input(**payload["dataset"]))
    chosen = _sample_documents(store, keys, payload["documents"] or SCORE_DOCUMENTS, payload["seed"])
    return {"scores": _score(store, keys, chosen, stored)}


def _commit(
    store: ObjectStore, payload: dict[str, Any], tokenizer: Any, end_of_text: str, documents: int
) -> StoredTokenizer:
    return commit_tokenizer(
        store,
        payload["prefix"],
        tokenizer,
        name=payload["name"],
        uid=payload["uid"],
        created=datetime.fromisoformat(payload["created"]),
        end_of_text=end_of_text,
        inputs=[(row["name"], row["digest"]) for row in payload["datasets"]],
        documents=documents,
    )


def _describe(stored: StoredTokenizer, scores: list[dict[str, Any]]) -> dict[str, Any]:
    return {**stored.as_dict(), "scores": scores, "notes": vocabulary_notes(stored.vocabulary_size)}


def _content(store: ObjectStore, key: str) -> Array:
    """Content hash of each document, from its id: uint64[documents]."""
    ids = open_shard(store, key).read(columns=["id"])["id"].to_pylist()
    return np.array([int(name[:16], 16) for name in ids], dtype=np.uint64)


def _split(values: Array, sizes: list[int]) -> list[Array]:
    return np.split(values, np.cumsum(sizes)[:-1])


def _sample_bytes(store: ObjectStore, keys: list[str], maximum_bytes: int) -> list[Array]:
    """Choose documents of all shards up to a total size; all where it is 0."""
    content = [_content(store, key) for key in keys]
    sizes = [len(values) for values in content]
    if not maximum_bytes:
        return [np.ones(size, dtype=np.bool_) for size in sizes]
    lengths = [
        np.concatenate(
            [
                pc.binary_length(batch["text"]).to_numpy()
                for batch in open_shard(store, key).iter_batches(columns=["text"])
            ]
        )
        for key in keys
    ]
    everything = np.concatenate(content)
    candidates = np.ones(len(everything), dtype=np.bool_)
    return _split(sample_bytes(candidates, everything, np.concatenate(lengths), maximum_bytes, 0), sizes)


def _sample_documents(store: ObjectStore, keys: list[str], count: int, seed: int) -> list[Array]:
    """Choose a number of documents of all shards by their seeded order."""
    content = [_content(store, key) for key in keys]
    everything = np.concatenate(content)
    chosen = np.zeros(len(everything), dtype=np.bool_)
    chosen[np.argsort(order_keys(everything, seed, SAMPLE), kind="stable")[:count]] = True
    return _split(chosen, [len(values) for values in content])


def _texts(store: ObjectStore, keys: list[str], chosen: list[Array]) -> Iterator[list[str]]:
    for key, rows in zip(keys, chosen, strict=True):
        file = open_shard(store, key)
        if rows.all():
            yield from (batch["text"] for batch in batches(file, ("text",)))
        else:
            yield from (columns["text"] for _, columns in selected(file, ("text",), rows))


def _score(store: ObjectStore, keys: list[str], chosen: list[Array], stored: StoredTokenizer) -> list[dict[str, Any]]:
    encoder = Encoder(stored.tokenizer, stored.end_of_text)
    by_source: dict[str, list[str]] = {}
    by_language: dict[str, list[str]] = {}
    for key, rows in zip(keys, chosen, strict=True):
        for _, columns in selected(open_shard(store, key), ("source", "text", "language"), rows):
            for source, text, language in zip(columns["source"], columns["text"], columns["language"], strict=True):
                by_source.setdefault(source, []).append(text)
                if language:
                    by_language.setdefault(f"language {language}", []).append(text)
    scores = [score_texts(source, texts, encoder) for source, texts in sorted(by_source.items())]
    spoken = [score_texts(name, texts, encoder) for name, texts in sorted(by_language.items())]
    return [score.as_dict() for score in (*scores, *spoken, total_score(scores, "total"))] if scores else []
