"""Output shards: which documents each gets, and the gathering of their tokens from all dataset shards."""

from typing import Any

import numpy as np
from longhaul_core.engine import report
from longhaul_core.errors import FailedPrecondition
from longhaul_core.manifests import put_part

from longhaul_corpus.adapters.steps.tokenise import group_number
from longhaul_corpus.adapters.workspace import Array, Workspace
from longhaul_corpus.domain.layout import count_tokens, cut_shards, key_range
from longhaul_corpus.domain.mixture import check_length, resolve_weights
from longhaul_corpus.domain.tokenizer import token_dtype

SPLITS = ("train", "valid")


def lay_out(workspace: Workspace, item: dict[str, Any]) -> dict[str, Any]:
    """Decide on the output shards; returns them and the tokens of each source.

    Raises:
        FailedPrecondition: no training tokens, a weighted source without tokens, or a sequence longer than the set.
    """
    indexes = [workspace.arrays(_index_name(shard.number)) for shard in workspace.shards()]
    groups = np.concatenate([index["group"] for index in indexes])
    keys = np.concatenate([index["key"] for index in indexes])
    sizes = np.concatenate([index["tokens"] for index in indexes])
    shards = []
    totals: dict[str, dict[str, int]] = {split: {} for split in SPLITS}
    for number, source in enumerate(workspace.sources()):
        for split in SPLITS:
            ours = groups == group_number(number, split == "valid")
            totals[split][source] = int(sizes[ours].sum())
            for shard in cut_shards(split, source, keys[ours], sizes[ours], workspace.spec.shard_tokens):
                shards.append(
                    {**_identity(split, source, shard.number), "low": f"{shard.low:x}", "high": f"{shard.high:x}"}
                )
    _check(workspace, totals)
    weights = resolve_weights(workspace.spec.mixture, totals["train"])
    return {"shards": shards, "tokens": totals, "weights": weights}


def write_shard(workspace: Workspace, item: dict[str, Any]) -> dict[str, Any]:
    """Write one output shard with its index and its token counts; returns their parts."""
    dtype = np.dtype(token_dtype(item["vocabulary_size"]))
    group = group_number(workspace.sources().index(item["source"]), item["split"] == "valid")
    ids, sizes, text_bytes = _gather(workspace, group, int(item["low"], 16), int(item["high"], 16), dtype)
    key = f"{workspace.context.prefix}/{item['split']}/{item['source']}/{item['number']:05d}.ds"
    workspace.put_column(
        f"counts/{item['split']}/{item['source']}/{item['number']:05d}",
        count_tokens(ids, item["vocabulary_size"]),
    )
    part = put_part(workspace.store, key, ids.astype(dtype.newbyteorder("<"), copy=False).tobytes())
    index = put_part(workspace.store, f"{key}.index", np.cumsum(sizes).astype("<u8").tobytes())
    return {
        **_identity(item["split"], item["source"], item["number"]),
        "tokens": len(ids),
        "documents": len(sizes),
        "bytes": text_bytes,
        "parts": [part.model_dump(mode="json"), index.model_dump(mode="json")],
    }


def _gather(workspace: Workspace, group: int, low: int, high: int, dtype: np.dtype[Any]) -> tuple[Array, Array, int]:
    """Read the documents of a group in a range of keys from every dataset shard, ordered by key."""
    pieces: list[Array] = []
    keys: list[Array] = []
    text_bytes = 0
    shards = workspace.shards()
    for shard in shards:
        index = workspace.arrays(_index_name(shard.number))
        first, last = np.searchsorted(index["group"], (group, group + 1))
        within = key_range(index["key"][first:last], low, high)
        chosen = slice(first + within.start, first + within.stop)
        start, sizes = int(index["tokens"][: chosen.start].sum()), index["tokens"][chosen]
        ids = workspace.column(_ids_name(shard.number), dtype.type, start, int(sizes.sum()))
        pieces += np.split(ids, np.cumsum(sizes))[: len(sizes)]
        keys.append(index["key"][chosen])
        text_bytes += int(index["bytes"][chosen].sum())
        report({"done": shard.number + 1, "total": len(shards)})
    order = np.argsort(np.concatenate(keys), kind="stable")
    ordered = [pieces[place] for place in order]
    return np.concatenate(ordered), np.array([len(piece) for piece in ordered], dtype=np.int64), text_bytes


def _check(workspace: Workspace, totals: dict[str, dict[str, int]]) -> None:
    train, valid = (sum(totals[split].values()) for split in SPLITS)
    if not train:
        raise FailedPrecondition(
            "No training document is left after deduplication and decontamination",
            reason="TRAINING_SIDE_EMPTY",
            action="Look at the duplicates and at the evaluation files: they may be a copy of the training data.",
        )
    if workspace.spec.sequence_length:
        check_length(workspace.spec.sequence_length, train, valid)


def _identity(split: str, source: str, number: int) -> dict[str, Any]:
    return {"split": split, "source": source, "number": number}


def _index_name(shard: int) -> str:
    return f"tokens/{shard:05d}/index.npz"


def _ids_name(shard: int) -> str:
    return f"tokens/{shard:05d}/ids"
