"""Paragraphs, runs of sentences, runs of words that stood before: keys a shard, places over all, cuts a shard.

The order in which passages count as first is: held-out documents, then training documents, each in dataset order. So
what is held out stays whole, and the training side loses what it shares with it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from longhaul_core.engine import report

from longhaul_corpus.adapters.documents import open_shard, selected
from longhaul_corpus.adapters.workspace import Array, Shard, Workspace
from longhaul_corpus.domain.outcomes import Outcome
from longhaul_corpus.domain.phases import PASSAGE_PARTS
from longhaul_corpus.domain.repeats import (
    cut_spans,
    cut_words,
    later_places,
    paragraph_hashes,
    paragraph_spans,
    sentence_runs,
    sentence_spans,
    text_hashes,
    window_hashes,
)
from longhaul_corpus.domain.words import Bytes

PARTS = PASSAGE_PARTS
PARAGRAPHS, SENTENCES, WINDOWS = "paragraphs", "sentences", "windows"
_PLACE_BITS = 28
"""Of a place, for the number of the passage within its document: 268 million words, 1.5 GB of text."""
_FIRST_TRAINING_PLACE = 1 << 62


def kinds(workspace: Workspace) -> list[str]:
    """Which kinds of passages are asked for."""
    rules = workspace.spec.deduplication
    sizes = {
        PARAGRAPHS: rules.paragraph_characters,
        SENTENCES: rules.substring_sentences,
        WINDOWS: rules.substring_words,
    }
    return [kind for kind, size in sizes.items() if size]


def find_passages(workspace: Workspace, item: dict[str, Any]) -> dict[str, Any]:
    """Write the hashes of the passages of a shard's kept documents, with their places, spread by hash."""
    shard = workspace.shards()[item["shard"]]
    outcomes = _outcomes(workspace, shard)
    found: dict[str, list[Array]] = {kind: [np.empty((0, 2), dtype=np.uint64)] for kind in kinds(workspace)}
    for row, text in _kept(workspace, shard, outcomes):
        for kind, rows in found.items():
            hashes = _hashes(workspace, kind, text)
            side = _FIRST_TRAINING_PLACE if outcomes[row] == Outcome.TRAIN else 0
            base = (row + shard.offset) << _PLACE_BITS | side
            places = np.arange(len(hashes), dtype=np.int64) + base
            rows.append(np.stack([hashes, places.astype(np.uint64)], axis=1))
    for kind, rows in found.items():
        table = np.concatenate(rows)
        part = (table[:, 0] >> np.uint64(60)).astype(np.int64)
        for number in range(PARTS):
            workspace.put_column(f"{kind}/{shard.number:05d}/{number:02d}", table[part == number])
    return {"passages": {kind: sum(map(len, rows)) for kind, rows in found.items()}}


def join_passages(workspace: Workspace, item: dict[str, Any]) -> dict[str, Any]:
    """Write the places of the passages of one part that stood before, by shard."""
    shards = workspace.shards()
    counts = {}
    for kind in kinds(workspace):
        rows = [workspace.column(f"{kind}/{s.number:05d}/{item['part']:02d}", np.uint64).reshape(-1, 2) for s in shards]
        table = np.concatenate(rows)
        later = later_places(table[:, 0], table[:, 1].astype(np.int64))
        ordinals = (later & (_FIRST_TRAINING_PLACE - 1)) >> _PLACE_BITS
        for shard in shards:
            ours = (ordinals >= shard.offset) & (ordinals < shard.offset + shard.documents)
            workspace.put_column(f"{kind}/{shard.number:05d}/later-{item['part']:02d}", later[ours])
        counts[kind] = len(later)
    return {"repeated": counts}


def cut_passages(workspace: Workspace, item: dict[str, Any]) -> dict[str, Any]:
    """Write what is left of the documents of a shard that held a repeated passage; null where that is too little."""
    shard = workspace.shards()[item["shard"]]
    places = {kind: _later(workspace, kind, shard) for kind in kinds(workspace)}
    guilty = np.zeros(shard.documents, dtype=np.bool_)
    for later in places.values():
        guilty[later[:, 0] - shard.offset] = True
    ordinals: list[int] = []
    left: list[str | None] = []
    removed = 0
    for row, text in _kept(workspace, shard, _outcomes(workspace, shard), guilty):
        rest = _cut(workspace, places, row + shard.offset, text)
        ordinals.append(row + shard.offset)
        left.append(rest)
        removed += len(text) - len(rest or "")
    table = pa.table({"ordinal": pa.array(ordinals, pa.int64()), "text": pa.array(left, pa.large_string())})
    with workspace.store.open_write(workspace.key(_edits_name(shard))) as sink:
        pq.write_table(table, sink, compression="zstd")
    dropped = np.array([o for o, text in zip(ordinals, left, strict=True) if text is None], dtype=np.int64)
    workspace.put_column(f"passages/{shard.number:05d}/dropped", dropped)
    return {"documents_cut": len(ordinals), "documents_dropped": len(dropped), "characters_cut": removed}


def read_edits(workspace: Workspace, shard: Shard) -> dict[int, str]:
    """What is left of the documents that lost a passage, by ordinal; empty where no passage is asked for."""
    if not kinds(workspace):
        return {}
    table = pq.read_table(pa.BufferReader(workspace.store.get(workspace.key(_edits_name(shard))))).to_pydict()
    return {o: text for o, text in zip(table["ordinal"], table["text"], strict=True) if text is not None}


def dropped_documents(workspace: Workspace) -> Array:
    """Ordinals of the documents of which too little was left: int64[dropped]."""
    if not kinds(workspace):
        return np.empty(0, dtype=np.int64)
    columns = [workspace.column(f"passages/{shard.number:05d}/dropped", np.int64) for shard in workspace.shards()]
    return np.concatenate(columns)


def _edits_name(shard: Shard) -> str:
    return f"passages/{shard.number:05d}/edits.parquet"


def _outcomes(workspace: Workspace, shard: Shard) -> Array:
    return workspace.column("documents/outcome", np.uint8, shard.offset, shard.documents)


def _kept(
    workspace: Workspace, shard: Shard, outcomes: Array, wanted: Array | None = None
) -> Iterator[tuple[int, str]]:
    """Rows and texts of the documents that are kept, among those wanted."""
    rows_wanted = outcomes <= Outcome.VALID if wanted is None else wanted
    if not rows_wanted.any():
        return
    for rows, columns in selected(open_shard(workspace.store, shard.key), ("text",), rows_wanted):
        yield from zip(rows.tolist(), (text or "" for text in columns["text"]), strict=True)
        report({"done": int(rows[-1]) + 1, "total": shard.documents})


def _hashes(workspace: Workspace, kind: str, text: str) -> Array:
    rules = workspace.spec.deduplication
    if kind == PARAGRAPHS:
        return paragraph_hashes(text, paragraph_spans(text, rules.paragraph_characters))
    if kind == SENTENCES:
        return text_hashes(sentence_runs(text, sentence_spans(text), rules.substring_sentences))
    return window_hashes(_bytes(text), rules.substring_words)


def _bytes(text: str) -> Bytes:
    return np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8)


def _later(workspace: Workspace, kind: str, shard: Shard) -> Array:
    """Ordinal and number within the document of each repeated passage of a shard, in order: int64[passages, 2]."""
    names = [f"{kind}/{shard.number:05d}/later-{part:02d}" for part in range(PARTS)]
    later = np.concatenate([workspace.column(name, np.int64) for name in names]) & (_FIRST_TRAINING_PLACE - 1)
    later.sort()
    return np.stack([later >> _PLACE_BITS, later & ((1 << _PLACE_BITS) - 1)], axis=1)


def _cut(workspace: Workspace, places: dict[str, Array], ordinal: int, text: str) -> str | None:
    """Cut the runs of words first, whose places count words of the whole text; then what is left of the others."""
    rules = workspace.spec.deduplication
    rest: str | None = text
    if WINDOWS in places and len(numbers := _numbers(places[WINDOWS], ordinal)):
        windows = np.zeros(len(window_hashes(_bytes(text), rules.substring_words)), dtype=np.bool_)
        windows[numbers] = True
        rest = cut_words(text, windows, rules.substring_words)
    if PARAGRAPHS in places and rest is not None:
        spans = paragraph_spans(text, rules.paragraph_characters)
        gone = {text[slice(*spans[number])] for number in _numbers(places[PARAGRAPHS], ordinal)}
        rest = _cut_paragraphs(rest, gone, rules.paragraph_characters)
    if SENTENCES in places and rest is not None:
        runs = sentence_runs(text, sentence_spans(text), rules.substring_sentences)
        gone = {runs[number] for number in _numbers(places[SENTENCES], ordinal)}
        rest = _cut_sentences(rest, gone, rules.substring_sentences)
    return rest


def _cut_paragraphs(text: str, gone: set[str], characters: int) -> str | None:
    spans = [span for span in paragraph_spans(text, characters) if text[slice(*span)] in gone]
    return cut_spans(text, spans) if spans else text


def _cut_sentences(text: str, gone: set[str], count: int) -> str | None:
    spans = sentence_spans(text)
    covered = np.zeros(len(spans), dtype=np.bool_)
    for number, run in enumerate(sentence_runs(text, spans, count)):
        covered[number : number + count] |= run in gone
    return cut_spans(text, [spans[number] for number in np.flatnonzero(covered)]) if covered.any() else text


def _numbers(later: Array, ordinal: int) -> Array:
    first, last = np.searchsorted(later[:, 0], (ordinal, ordinal + 1))
    return np.asarray(later[first:last, 1])
