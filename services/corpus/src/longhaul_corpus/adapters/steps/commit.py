"""The end of a build: accounting of every document, report, and the manifest, which is the commit."""

import json
from typing import Any

import numpy as np
from longhaul_core.ids import fingerprint
from longhaul_core.manifests import (
    CommitAuthority,
    InputRef,
    Manifest,
    Part,
    hash_object,
    put_part,
    read_manifest,
    write_manifest,
)

from longhaul_corpus.adapters.steps.accounting import largest_clusters, write_accounting
from longhaul_corpus.adapters.steps.shuffle import SPLITS
from longhaul_corpus.adapters.workspace import DUPLICATES_FILE, REPORT, Array, Workspace, dump_context
from longhaul_corpus.domain.mixture import WARN_REPEATS
from longhaul_corpus.domain.outcomes import check_accounting
from longhaul_corpus.domain.report import build_report, encoding_notes, validation_figures
from longhaul_corpus.domain.tokenizer import token_dtype

KIND = "tokenset"
MANIFEST = "manifest.json"


def commit(workspace: Workspace, item: dict[str, Any]) -> dict[str, Any]:
    """Write accounting, report and manifest, then remove what was intermediate; returns the manifest's figures."""
    key = f"{workspace.context.prefix}/{MANIFEST}"
    if not workspace.store.exists(key):
        authority = CommitAuthority.of(workspace.store)
        write_manifest(workspace.store, key, _manifest(workspace, item), authority=authority)
    workspace.store.delete_prefix(f"{workspace.context.prefix}/work/")
    return summary(read_manifest(workspace.store, key), key)


def summary(manifest: Manifest, key: str) -> dict[str, Any]:
    """What the TokenSet resource shows of a manifest."""
    extra: dict[str, Any] = dict(manifest.extra)
    return {
        "manifest_key": key,
        "digest": manifest.digest,
        "content_digest": extra["content_digest"],
        "vocabulary_size": extra["vocabulary_size"],
        "counts": manifest.counts,
        "sources": [
            {
                "name": name,
                "train_tokens": sides["train"]["tokens"],
                "valid_tokens": sides["valid"]["tokens"],
                "train_documents": sides["train"]["documents"],
                "valid_documents": sides["valid"]["documents"],
                "weight": {row["source"]: row["weight"] for row in extra["mixture"]}.get(name, 0.0),
            }
            for name, sides in extra["sources"].items()
        ],
        "evaluation_tasks": list(extra["eval_tasks"]),
        "validation": extra["validation"],
    }


def _manifest(workspace: Workspace, item: dict[str, Any]) -> Manifest:
    context, tokenizer = workspace.context, item["tokenizer"]
    sources = _sources(workspace, item["shards"])
    outcomes = np.array(workspace.column("documents/final", np.uint8))
    written = sum(side["documents"] for sides in sources.values() for side in sides.values())
    extra_copies, failed = item["outcomes"]["extra_copies"], item["deduplication"]["failed"]
    check_accounting(_documents_in(workspace), outcomes, written, extra_copies, failed)
    validation = _validation(workspace, item, sources)
    parts = [Part.model_validate(part) for shard in item["shards"] for part in shard["parts"]]
    parts += [Part.model_validate(task["part"]) for task in item["evaluation"]["tasks"]]
    parts += [
        write_accounting(workspace, outcomes),
        _duplicates_part(workspace),
        _report(workspace, item, sources, validation),
    ]
    extra = {
        "token_dtype": token_dtype(tokenizer["vocabulary_size"]),
        "vocabulary_size": tokenizer["vocabulary_size"],
        "eos_id": tokenizer["end_of_text_id"],
        "tokenizer": {name: tokenizer[name] for name in ("name", "key", "digest")},
        "sources": sources,
        "mixture": [{"source": name, "weight": weight} for name, weight in item["layout"]["weights"].items()],
        "eval_tasks": {
            task["name"]: {"key": task["part"]["key"], "kind": task["kind"], "items": task["items"]}
            for task in item["evaluation"]["tasks"]
        },
        "validation": validation,
    }
    return Manifest(
        kind=KIND,
        name=context.name,
        uid=context.uid,
        created=context.created,
        config=dump_context(context)["spec"],
        inputs=_inputs(workspace, tokenizer),
        parts=parts,
        counts=_counts(item, sources),
        extra={**extra, "content_digest": _content_digest(context.prefix, parts)},
    )


def _documents_in(workspace: Workspace) -> int:
    """Documents of the datasets, by their own manifests."""
    manifests = [read_manifest(workspace.store, dataset.manifest_key) for dataset in workspace.context.datasets]
    return sum(manifest.counts["kept"] for manifest in manifests)


def _inputs(workspace: Workspace, tokenizer: dict[str, Any]) -> list[InputRef]:
    datasets = [InputRef(name=dataset.name, digest=dataset.digest) for dataset in workspace.context.datasets]
    return [*datasets, InputRef(name=tokenizer["name"], digest=tokenizer["manifest_digest"])]


def _content_digest(prefix: str, parts: list[Part]) -> str:
    """Digest of the content alone: equal for two builds of the same inputs under different names."""
    return fingerprint([[part.key.removeprefix(prefix), part.size, part.digest] for part in parts])


def _counts(item: dict[str, Any], sources: dict[str, Any]) -> dict[str, int]:
    outcomes = item["outcomes"]
    tokens = {f"{split}_tokens": sum(sides[split]["tokens"] for sides in sources.values()) for split in SPLITS}
    documents = {
        f"{name}_documents": outcomes[name] for name in ("train", "valid", "duplicate", "contaminated", "sampled_out")
    }
    found = item["deduplication"]
    return {"documents": found["documents"], **documents, "failed_documents": found["failed"], **tokens}


def _sources(workspace: Workspace, shards: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    sources: dict[str, dict[str, Any]] = {}
    for name in workspace.sources():
        sources[name] = {}
        for split in SPLITS:
            ours = [shard for shard in shards if (shard["split"], shard["source"]) == (split, name)]
            rows = [
                {
                    "key": shard["parts"][0]["key"],
                    "index_key": shard["parts"][1]["key"],
                    "tokens": shard["tokens"],
                    "documents": shard["documents"],
                }
                for shard in sorted(ours, key=lambda shard: shard["number"])
            ]
            totals = {field: sum(shard[field] for shard in ours) for field in ("tokens", "documents", "bytes")}
            sources[name][split] = {**totals, "shards": rows}
    return sources


def _validation(workspace: Workspace, item: dict[str, Any], sources: dict[str, Any]) -> dict[str, float]:
    counts: dict[str, Array] = {
        split: np.zeros(item["tokenizer"]["vocabulary_size"], dtype=np.int64) for split in SPLITS
    }
    for shard in item["shards"]:
        name = f"counts/{shard['split']}/{shard['source']}/{shard['number']:05d}"
        counts[shard["split"]] += workspace.column(name, np.int64)
    valid_bytes = sum(sides["valid"]["bytes"] for sides in sources.values())
    return validation_figures(counts["valid"], counts["train"], valid_bytes)


def _report(workspace: Workspace, item: dict[str, Any], sources: dict[str, Any], validation: dict[str, float]) -> Part:
    tokenizer = item["tokenizer"]
    report = build_report(
        deduplication=item["deduplication"],
        outcomes=item["outcomes"],
        passages=item["passages"],
        sources={
            name: {
                split: {field: value for field, value in side.items() if field != "shards"}
                for split, side in sides.items()
            }
            for name, sides in sources.items()
        },
        weights=item["layout"]["weights"],
        largest_clusters=largest_clusters(workspace),
        tokenizer={name: tokenizer[name] for name in ("digest", "vocabulary_size", "scores")},
        validation=validation,
        notes=[
            *(f"Set aside, its documents count as failed: {shard}" for shard in item["deduplication"]["lost"]),
            *_repeat_notes(workspace),
            *item["evaluation"]["notes"],
            *tokenizer["notes"],
            *encoding_notes(item["engines"]),
        ],
    )
    text = json.dumps(report, sort_keys=True, indent=1, ensure_ascii=False).encode()
    return put_part(workspace.store, f"{workspace.context.prefix}/{REPORT}", text)


def _repeat_notes(workspace: Workspace) -> list[str]:
    """A warning for each rule that takes documents so often that they stop to be worth as much as new ones."""
    often = [rule for rule in workspace.spec.sampling if rule.repeat > WARN_REPEATS]
    return [
        f"Sampling takes documents of {rule.source or 'every source'} {rule.repeat:g} times; beyond "
        f"{WARN_REPEATS} repeats teach less and less."
        for rule in often
    ]


def _duplicates_part(workspace: Workspace) -> Part:
    key = f"{workspace.context.prefix}/{DUPLICATES_FILE}"
    return Part(key=key, size=workspace.store.stat(key).size, digest=hash_object(workspace.store, key))
