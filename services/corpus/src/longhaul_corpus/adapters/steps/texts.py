"""Texts of kept documents in dataset order, with what decontamination left of cut ones."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from longhaul_corpus.adapters.documents import open_shard, selected
from longhaul_corpus.adapters.workspace import Shard, Workspace


def read_texts(
    workspace: Workspace, shard: Shard, wanted: npt.NDArray[np.bool_], cut: dict[int, str]
) -> Iterator[tuple[npt.NDArray[np.int64], list[str]]]:
    """Yield ordinals and texts of the wanted documents of a shard, some at a time.

    Args:
        workspace: the build.
        shard: the shard.
        wanted: whether each document of the shard is wanted: bool[documents of the shard].
        cut: text of cut documents by ordinal.
    """
    if not wanted.any():
        return
    for rows, columns in selected(open_shard(workspace.store, shard.key), ("text",), wanted):
        ordinals = rows + shard.offset
        yield ordinals, [cut.get(int(o), text or "") for o, text in zip(ordinals, columns["text"], strict=True)]
