"""Texts of kept documents in dataset order: what cutting of passages and decontamination left of them."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from longhaul_corpus.adapters.documents import open_shard, selected
from longhaul_corpus.adapters.steps.passages import read_edits
from longhaul_corpus.adapters.workspace import Shard, Workspace


def read_texts(
    workspace: Workspace, shard: Shard, wanted: npt.NDArray[np.bool_], cut: dict[int, str]
) -> Iterator[tuple[npt.NDArray[np.int64], list[str]]]:
    """Yield ordinals and texts of the wanted documents of a shard, some at a time.

    Args:
        workspace: the build.
        shard: the shard.
        wanted: whether each document of the shard is wanted: bool[documents of the shard].
        cut: what decontamination left of documents, by ordinal.
    """
    if not wanted.any():
        return
    changed = {**read_edits(workspace, shard), **cut}
    for rows, columns in selected(open_shard(workspace.store, shard.key), ("text",), wanted):
        ordinals = rows + shard.offset
        yield ordinals, [changed.get(int(o), text or "") for o, text in zip(ordinals, columns["text"], strict=True)]
