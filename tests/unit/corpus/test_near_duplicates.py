"""MinHash clusters against datatrove's and against exact Jaccard similarity, on real text with injected near copies."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import xxhash
from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupSignature,
)
from datatrove.utils.word_tokenizers import WordTokenizer
from longhaul_corpus.domain.clusters import DisjointSets
from longhaul_corpus.domain.minhash import MinHashParameters, Signature, SignatureHasher, estimate_similarity
from longhaul_corpus.domain.words import simplified_bytes, split_words

from tests.unit.corpus.texts import edited, library_texts

SHARES = (0.005, 0.01, 0.02, 0.04, 0.08)


class OurWords(WordTokenizer):
    """Our words for datatrove."""

    def word_tokenize(self, text: str) -> list[str]:
        return split_words(text)

    def sent_tokenize(self, text: str) -> list[str]:
        raise NotImplementedError

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        raise NotImplementedError


@functools.cache
def corpus() -> tuple[str, ...]:
    """Real documents, a third of them with a near copy, and copies of copies."""
    originals = library_texts()
    copies = [edited(text, SHARES[number % len(SHARES)], number) for number, text in enumerate(originals[:60])]
    second = [edited(text, 0.01, 1000 + number) for number, text in enumerate(copies[:20])]
    return (*originals, *copies, *second, "too short", "")


@functools.cache
def signatures() -> tuple[Signature | None, ...]:
    hasher = SignatureHasher(MinHashParameters())
    return tuple(hasher.signature(simplified_bytes(text)) for text in corpus())


@functools.cache
def clusters() -> frozenset[frozenset[int]]:
    """Our clusters of two or more documents."""
    sets = DisjointSets(len(corpus()))
    present = np.array([signature is not None for signature in signatures()])
    for band in range(14):
        digests = [signature.bands[band] if signature else 0 for signature in signatures()]
        sets.join_equal(np.array(digests, dtype=np.uint64), present)
    labels = sets.labels()
    groups = [frozenset(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)]
    return frozenset(group for group in groups if len(group) > 1)


def test_clusters_equal_datatrove_on_the_same_words(tmp_path: Path) -> None:
    assert clusters() == _datatrove_clusters(corpus(), tmp_path)


def _datatrove_clusters(texts: Sequence[str], folder: Path) -> frozenset[frozenset[int]]:
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    documents = (Document(text=text, id=str(number)) for number, text in enumerate(texts))
    signature = MinhashDedupSignature(str(folder / "signatures"), config, language=OurWords())
    signature._hash_func = lambda text: xxhash.xxh64_intdigest(text.encode())  # it hands str, which xxhash 4 refuses
    signature.run(documents, 0, 1)
    for bucket in range(14):
        MinhashDedupBuckets(str(folder / "signatures"), str(folder / "buckets"), config=config).run(None, bucket, 14)
    MinhashDedupCluster(str(folder / "buckets"), str(folder / "removed"), config, save_cluster_id=True).run(None, 0, 1)
    pairs = np.fromfile(folder / "removed" / "000000.clusters", dtype="<u4").reshape(-1, 2)
    members: dict[int, set[int]] = {}
    for document, cluster in pairs.tolist():
        members.setdefault(cluster, set()).add(document)
    return frozenset(frozenset(group) for group in members.values())


@functools.cache
def similarities() -> dict[tuple[int, int], float]:
    """Exact Jaccard similarity of the sets of 5-grams, of all pairs that share any."""
    grams = [_grams(text) for text in corpus()]
    holders: dict[tuple[str, ...], list[int]] = {}
    for number, found in enumerate(grams):
        for gram in found:
            holders.setdefault(gram, []).append(number)
    pairs = {pair for group in holders.values() for pair in itertools.combinations(group, 2)}
    return {(a, b): len(grams[a] & grams[b]) / len(grams[a] | grams[b]) for a, b in pairs}


def _grams(text: str) -> set[tuple[str, ...]]:
    words = split_words(text)
    return set(zip(*(words[start:] for start in range(5)), strict=False))


def test_pairs_met_in_a_band_have_recall_and_precision_of_the_theory() -> None:
    exact = similarities()
    met = {pair for pair in exact if _meet(*pair)}
    similar = {pair for pair, similarity in exact.items() if similarity >= 0.8}
    expected = sum(MinHashParameters().match_probability(exact[pair]) for pair in similar)
    assert len(similar) >= 40
    assert len(met & similar) >= expected - 3 * np.sqrt(expected * (1 - expected / len(similar)) + 1)
    assert len(met & similar) / len(similar) >= 0.9
    assert sum(exact[pair] >= 0.5 for pair in met) / len(met) >= 0.95


def _meet(a: int, b: int) -> bool:
    left, right = signatures()[a], signatures()[b]
    return left is not None and right is not None and bool((left.bands == right.bands).any())


def test_match_probability_is_the_published_one() -> None:
    assert MinHashParameters().match_probability(0.8) == pytest.approx(0.924, abs=1e-3)


def test_similarity_from_sketches_is_near_the_exact_one() -> None:
    pairs = [
        pair for pair, similarity in similarities().items() if similarity > 0.3 and all(signatures()[n] for n in pair)
    ]
    sketches = [[signatures()[pair[side]].sketch for pair in pairs] for side in (0, 1)]  # type: ignore[union-attr]
    estimates = estimate_similarity(np.array(sketches[0]), np.array(sketches[1]), 112)
    errors = estimates - np.array([similarities()[pair] for pair in pairs])
    assert abs(errors.mean()) < 0.03
    assert np.sqrt((errors**2).mean()) < 0.12


def test_text_shorter_than_a_gram_has_no_signature() -> None:
    assert SignatureHasher(MinHashParameters()).signature(simplified_bytes("only four words here")) is None
