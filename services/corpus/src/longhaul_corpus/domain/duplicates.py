"""Which documents are duplicates, of which document, and by which rule."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from longhaul_corpus.domain.clusters import DisjointSets, Mask, Ordinals, keepers
from longhaul_corpus.domain.hashing import Hashes


class DuplicateRule(IntEnum):
    """How a dropped document relates to the one kept in its place."""

    NONE = 0
    EXACT_TEXT = 1
    SAME_URL = 2
    NEAR_DUPLICATE = 3


@dataclass(frozen=True, slots=True)
class DuplicatePolicy:
    """Which rules drop documents, and which document of a cluster stays."""

    exact: bool = True
    url: bool = True
    near: bool = True
    keep_longest: bool = True


@dataclass(frozen=True, slots=True)
class DocumentKeys:
    """What documents are compared by; each array has one entry a document, in dataset order.

    Attributes:
        text_high, text_low: halves of a 128-bit hash of the text: uint64[documents].
        url: hash of the URL, 0 where there is none: uint64[documents].
        lengths: size of the text in bytes: int64[documents].
        banded: whether the document is long enough for a near-duplicate signature: bool[documents].
        scores: what the document with the best score is chosen by: float32[documents]; None: not asked for.
    """

    text_high: Hashes
    text_low: Hashes
    url: Hashes
    lengths: npt.NDArray[np.int64]
    banded: Mask
    scores: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Decision on each document, in dataset order.

    Attributes:
        clusters: lowest ordinal of the document's cluster over all rules, dropped or not: int64[documents].
        kept: ordinal of the document kept for it, its own where it stays: int64[documents].
        rules: `DuplicateRule` of each document: uint8[documents].
    """

    clusters: Ordinals
    kept: Ordinals
    rules: npt.NDArray[np.uint8]

    @property
    def stays(self) -> Mask:
        """Whether each document is kept: bool[documents]."""
        return np.asarray(self.rules == DuplicateRule.NONE)


def find_duplicates(keys: DocumentKeys, bands: Iterable[Hashes], policy: DuplicatePolicy) -> Duplicates:
    """Join documents by text, URL and band digests, and choose what stays.

    Clusters always use every rule, so that a held-out split by cluster is free of near copies even where the policy
    keeps them in the training data.

    Args:
        keys: what documents are compared by.
        bands: digests of one band at a time: uint64[documents] each, so that one band is in memory at once.
        policy: which rules drop documents.
    """
    texts = _dense(keys.text_high, keys.text_low)
    everyone = np.ones(len(texts), dtype=np.bool_)
    dropping, related = DisjointSets(len(texts)), DisjointSets(len(texts))
    for enabled, values, present in ((policy.exact, texts, everyone), (policy.url, keys.url, keys.url != 0)):
        related.join_equal(values, present)
        if enabled:
            dropping.join_equal(values, present)
    for digests in bands:
        related.join_equal(digests, keys.banded)
        if policy.near:
            dropping.join_equal(digests, keys.banded)
    kept = keepers(dropping.labels(), keys.lengths, longest=policy.keep_longest, scores=keys.scores)
    return Duplicates(related.labels(), kept, _rules(texts, keys.url, kept, policy))


def _dense(high: Hashes, low: Hashes) -> Hashes:
    """Number of each distinct 128-bit value, so that equality needs 64 bits only."""
    order = np.lexsort((low, high))
    changes = np.zeros(len(order), dtype=np.bool_)
    for half in (high, low):  # one after the other: each in order is a copy
        ordered = half[order]
        changes[1:] |= ordered[1:] != ordered[:-1]
        del ordered
    numbers = np.empty(len(order), dtype=np.uint64)
    numbers[order] = np.cumsum(changes, dtype=np.uint64)
    return numbers


def _rules(texts: Hashes, urls: Hashes, kept: Ordinals, policy: DuplicatePolicy) -> npt.NDArray[np.uint8]:
    """Strictest rule by which each document equals the one kept for it; chains fall to the loosest rule in use."""
    loosest = DuplicateRule.NEAR_DUPLICATE if policy.near else DuplicateRule.SAME_URL
    rules = np.full(len(kept), loosest, dtype=np.uint8)
    rules[(urls == urls[kept]) & (urls != 0) & policy.url] = DuplicateRule.SAME_URL
    rules[(texts == texts[kept]) & policy.exact] = DuplicateRule.EXACT_TEXT
    rules[kept == np.arange(len(kept))] = DuplicateRule.NONE
    return rules
