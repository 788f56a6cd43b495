"""Held-out split: whole clusters of near copies go to validation, chosen by a seeded hash within each source."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from longhaul_core.errors import FailedPrecondition

from longhaul_corpus.domain.clusters import Mask, Ordinals
from longhaul_corpus.domain.hashing import Hashes
from longhaul_corpus.domain.ordering import SPLIT, order_keys


@dataclass(frozen=True, slots=True)
class SplitPolicy:
    """How many documents are held out: a fraction of those kept, within bounds; a maximum of 0 is none."""

    fraction: float
    minimum_documents: int
    maximum_documents: int
    seed: int

    def documents(self, kept: int) -> int:
        """Documents to hold out of `kept`."""
        wanted = max(round(self.fraction * kept), self.minimum_documents)
        return min(wanted, self.maximum_documents) if self.maximum_documents else wanted


def hold_out(
    stays: Mask, clusters: Ordinals, sources: npt.NDArray[np.int64], content: Hashes, policy: SplitPolicy
) -> Mask:
    """Choose the validation documents among those that stay: bool[documents].

    Args:
        stays: documents not dropped as duplicates: bool[documents].
        clusters: near-duplicate cluster of each document: int64[documents].
        sources: number of each document's source: int64[documents].
        content: content hash of each document: uint64[documents]; makes the choice independent of the dataset's order.
        policy: how many to hold out.

    Raises:
        FailedPrecondition: nothing would be left to train on.
    """
    kept = np.flatnonzero(stays)
    wanted = policy.documents(len(kept))
    if len(kept) <= wanted:
        raise FailedPrecondition(
            f"{len(kept)} documents are left after deduplication, and {wanted} of them would be held out",
            reason="TOO_FEW_DOCUMENTS",
            metadata={"documents": str(len(kept)), "held_out": str(wanted)},
            action="Add documents, or lower the held-out minimum in the recipe's corpus section.",
        )
    held_out = np.zeros(len(stays), dtype=np.bool_)
    home = sources[clusters]
    for source, quota in _quotas(home[kept], wanted).items():
        members = kept[home[kept] == source]
        held_out[_first_clusters(members, clusters, content, policy.seed, quota)] = True
    if held_out.sum() == len(kept):
        raise FailedPrecondition(
            f"All {len(kept)} documents left after deduplication are near copies of one another",
            reason="TOO_FEW_CLUSTERS",
            action="Add documents that differ; a validation split needs at least two clusters.",
        )
    return held_out


def _quotas(sources: npt.NDArray[np.int64], wanted: int) -> dict[int, int]:
    """Documents to hold out of each source, in proportion, by largest remainder."""
    names, counts = np.unique(sources, return_counts=True)
    shares = counts * wanted / counts.sum()
    quotas = np.floor(shares).astype(np.int64)
    for index in np.argsort(-(shares - quotas), kind="stable")[: wanted - int(quotas.sum())]:
        quotas[index] += 1
    return {int(name): int(quota) for name, quota in zip(names, quotas, strict=True)}


def _first_clusters(members: Ordinals, clusters: Ordinals, content: Hashes, seed: int, quota: int) -> Ordinals:
    """Members of whole clusters, in seeded order, up to and including the cluster that fills the quota."""
    if quota == 0:
        return members[:0]
    keys = order_keys(content[clusters[members]], seed, SPLIT)
    order = members[np.lexsort((members, clusters[members], keys))]
    last = clusters[order[min(quota, len(order)) - 1]]
    end = int(np.flatnonzero(clusters[order] == last)[-1]) + 1
    return order[:end]
