"""The report of a build: what became of the documents, and figures that a person judges the data by."""

from collections.abc import Mapping, Sequence
from typing import Any

from longhaul_corpus.domain.mixture import repeat_table
from longhaul_corpus.domain.scores import bits_per_byte, unigram_cross_entropy, unigram_entropy

Json = dict[str, Any]


def validation_figures(valid: Any, train: Any, valid_bytes: int) -> dict[str, float]:
    """What models without context would score on the validation text, end-of-text tokens included.

    Args:
        valid: token counts of the validation side: int64[vocabulary].
        train: token counts of the training side: int64[vocabulary].
        valid_bytes: UTF-8 bytes of the validation text.
    """
    tokens = int(valid.sum())
    if not tokens:
        return {"tokens": 0.0, "bytes": 0.0, "bytes_per_token": 0.0}
    own, trained = unigram_entropy(valid), unigram_cross_entropy(valid, train)
    return {
        "tokens": tokens,
        "bytes": valid_bytes,
        "bytes_per_token": valid_bytes / tokens,
        "unigram_entropy_nats": own,
        "unigram_entropy_bits_per_byte": bits_per_byte(own, tokens, valid_bytes),
        "train_unigram_cross_entropy_nats": trained,
        "train_unigram_cross_entropy_bits_per_byte": bits_per_byte(trained, tokens, valid_bytes),
    }


def encoding_notes(engines: Sequence[str]) -> list[str]:
    """What a person should know of how the shards were encoded."""
    if "reference" not in engines:
        return []
    return [
        "Some shards were encoded by the slower reference engine: the fast one cannot do this tokenizer, or differed."
    ]


def build_report(
    *,
    deduplication: Json,
    outcomes: Json,
    passages: Json,
    sources: Mapping[str, Json],
    weights: Mapping[str, float],
    largest_clusters: Sequence[Json],
    tokenizer: Json,
    validation: Json,
    notes: Sequence[str],
) -> Json:
    """Put the report together; docs/formats.md describes it.

    Args:
        deduplication: result of the deduplication step.
        outcomes: result of the decontamination step.
        passages: what cutting repeated passages took; empty where it was off.
        sources: token, document and byte counts of each source by split.
        weights: mixture that sums to 1.
        largest_clusters: the biggest groups of near copies.
        tokenizer: identity and scores.
        validation: `validation_figures`.
        notes: remarks for a person.
    """
    tokens = {source: int(sources[source]["train"]["tokens"]) for source in weights}
    return {
        "schema": "longhaul.corpus-report/v1",
        "funnel": {
            "documents": deduplication["documents"],
            **{name: deduplication[f"duplicate_{name}"] for name in ("exact", "url", "near")},
            **{name: outcomes[name] for name in ("duplicate", "contaminated", "sampled_out", "train", "valid", "cut")},
            "failed": deduplication["failed"],
            "extra_copies": outcomes["extra_copies"],
        },
        "passages": dict(passages),
        "largest_clusters": list(largest_clusters),
        "decontamination": {"tasks": outcomes["tasks"], "common_grams": outcomes["common_grams"]},
        "tokenizer": tokenizer,
        "sources": {name: dict(values) for name, values in sources.items()},
        "mixture": repeat_table(weights, tokens),
        "validation": validation,
        "notes": list(notes),
    }
