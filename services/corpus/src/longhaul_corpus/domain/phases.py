"""Phases of a build, in order, and the work items of each from the results of those before."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from longhaul_corpus.domain.spec import BuildSpec

Items = list[dict[str, Any]]
Results = Mapping[str, Sequence[dict[str, Any]]]


class Phase(StrEnum):
    """A phase begins when the one before is finished; items of one phase are independent."""

    PREPARE = "prepare"
    SIGNATURES = "signatures"
    DEDUPLICATE = "deduplicate"
    PASSAGES = "passages"
    JOIN = "join"
    CUT = "cut"
    EVALUATION = "evaluation"
    DECONTAMINATE = "decontaminate"
    SETTLE = "settle"
    PIECES = "pieces"
    TOKENIZER = "tokenizer"
    TOKENISE = "tokenise"
    LAYOUT = "layout"
    SHUFFLE = "shuffle"
    COMMIT = "commit"


PHASES: tuple[Phase, ...] = tuple(Phase)
PASSAGE_PARTS = 16
"""Into how many parts the hashes of passages are spread: the join holds one of them at a time."""
SHARE = {
    Phase.PREPARE: 0.01,
    Phase.SIGNATURES: 0.27,
    Phase.DEDUPLICATE: 0.02,
    Phase.PASSAGES: 0.02,
    Phase.JOIN: 0.01,
    Phase.CUT: 0.01,
    Phase.EVALUATION: 0.02,
    Phase.DECONTAMINATE: 0.25,
    Phase.SETTLE: 0.01,
    Phase.PIECES: 0.08,
    Phase.TOKENIZER: 0.04,
    Phase.TOKENISE: 0.17,
    Phase.LAYOUT: 0.01,
    Phase.SHUFFLE: 0.06,
    Phase.COMMIT: 0.02,
}
"""Measured share of a build's time, for one progress bar over phases of unlike units."""


def next_phase(phase: Phase) -> Phase | None:
    """The phase after, None after the last."""
    place = PHASES.index(phase) + 1
    return PHASES[place] if place < len(PHASES) else None


def signature_items(keys: Sequence[str], lost: Mapping[str, str] = {}) -> Items:
    """Items of the first phase over dataset shards: one a file; `lost` says why some files are to be counted only."""
    items: Items = [{"shard": number, "key": key} for number, key in enumerate(keys)]
    return [{**item, "lost": lost[item["key"]]} if item["key"] in lost else item for item in items]


def signed_shards(results: Sequence[dict[str, Any]]) -> Items:
    """Results of the first phase over dataset shards, without files that were set aside."""
    return [result for result in results if not result.get("lost")]


def phase_items(phase: Phase, spec: BuildSpec, results: Results) -> Items:
    """Items of a phase after the signatures, from the results of the earlier ones."""
    if phase is Phase.DEDUPLICATE:
        signed = results[Phase.SIGNATURES]
        return [{"shards": signed_shards(signed), "lost": [result for result in signed if result.get("lost")]}]
    if phase in (Phase.PASSAGES, Phase.CUT):
        return _shards(results) if spec.deduplication.cuts_passages else []
    if phase is Phase.JOIN:
        return [{"part": part} for part in range(PASSAGE_PARTS)] if spec.deduplication.cuts_passages else []
    if phase is Phase.EVALUATION:
        prepared = _one(results, Phase.PREPARE)
        return [{"tasks": prepared["tasks"], "checks": prepared.get("checks", [])}]
    if phase is Phase.DECONTAMINATE:
        return _shards(results) if _checked(spec, results) else []
    if phase is Phase.SETTLE:
        return [{"tasks": _tasks(results), "checked": _checked(spec, results)}]
    if phase is Phase.PIECES:
        return _shards(results) if spec.training is not None and spec.training.from_counts else []
    if phase is Phase.TOKENIZER:
        return [{"counted": bool(results.get(Phase.PIECES))}]
    if phase is Phase.TOKENISE:
        identity = {name: _one(results, Phase.TOKENIZER)[name] for name in ("manifest_key", "manifest_digest")}
        return [{**shard, **identity} for shard in _shards(results)]
    if phase is Phase.SHUFFLE:
        size = _one(results, Phase.TOKENIZER)["vocabulary_size"]
        return [{**shard, "vocabulary_size": size} for shard in _one(results, Phase.LAYOUT)["shards"]]
    if phase is Phase.COMMIT:
        return [_everything(results)]
    return [{}]


def _everything(results: Results) -> dict[str, Any]:
    return {
        "deduplication": _one(results, Phase.DEDUPLICATE),
        "passages": _passages(results),
        "evaluation": _one(results, Phase.EVALUATION),
        "outcomes": _one(results, Phase.SETTLE),
        "tokenizer": _one(results, Phase.TOKENIZER),
        "layout": _one(results, Phase.LAYOUT),
        "engines": sorted({str(result["engine"]) for result in results[Phase.TOKENISE]}),
        "shards": list(results[Phase.SHUFFLE]),
    }


def _passages(results: Results) -> dict[str, int]:
    """What cutting repeated passages took, over all shards; empty where it was not asked for."""
    totals: dict[str, int] = {}
    for result in results.get(Phase.CUT, ()):
        for name, count in result.items():
            totals[name] = totals.get(name, 0) + count
    return totals


def _one(results: Results, phase: Phase) -> dict[str, Any]:
    return results[phase][0]


def _shards(results: Results) -> Items:
    return [{"shard": number} for number in range(len(signed_shards(results[Phase.SIGNATURES])))]


def _tasks(results: Results) -> Items:
    made = _one(results, Phase.EVALUATION)
    return [{"name": task["name"]} for task in (*made["tasks"], *made.get("checks", ()))]


def _checked(spec: BuildSpec, results: Results) -> bool:
    """Whether there is anything to compare the training side with."""
    return bool(spec.decontamination.ngram and _tasks(results))
