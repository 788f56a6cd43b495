"""Recall and precision of near-duplicate detection against exact Jaccard similarity, on a real corpus with near copies.

The texts of the recorded crawl, each fourth with copies of which a share of the words was replaced, moved or cut.
Usage: python bench/near_duplicates.py
"""

from __future__ import annotations

import itertools
import json
import random

import numpy as np
from data_inputs import texts
from longhaul_corpus.domain.minhash import MinHashParameters, SignatureHasher
from longhaul_corpus.domain.words import simplified_bytes, split_words

SHARES = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15)
BANDS = ((0.5, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.01))


def near_copy(text: str, share: float, chance: random.Random) -> str:
    """The text with a share of its words replaced by words from elsewhere in it."""
    words = text.split()
    for place in chance.sample(range(len(words)), max(1, round(share * len(words)))):
        words[place] = chance.choice(words)
    return " ".join(words)


def main() -> None:
    """Print recall by band of similarity, and recall and precision over all."""
    chance = random.Random(0)
    corpus = list(texts())
    corpus += [near_copy(text, share, chance) for text in texts()[::4] for share in SHARES]
    hasher = SignatureHasher(MinHashParameters())
    signatures = [hasher.signature(simplified_bytes(text)) for text in corpus]
    grams = [set(zip(*(split_words(text)[start:] for start in range(5)), strict=False)) for text in corpus]
    holders: dict[tuple[str, ...], list[int]] = {}
    for number, found in enumerate(grams):
        for gram in found:
            holders.setdefault(gram, []).append(number)
    common = {gram for gram, group in holders.items() if len(group) > 60}
    pairs = {pair for gram, group in holders.items() if gram not in common for pair in itertools.combinations(group, 2)}
    exact = {(a, b): len(grams[a] & grams[b]) / len(grams[a] | grams[b]) for a, b in pairs}
    bands = np.array([s.bands if s else np.zeros(14, dtype=np.uint64) for s in signatures])
    met = {(a, b) for a, b in exact if signatures[a] and signatures[b] and bool((bands[a] == bands[b]).any())}
    line = {"bench": "near duplicates", "documents": len(corpus), "pairs_compared": len(exact)}
    for low, high in BANDS:
        inside = [pair for pair, similarity in exact.items() if low <= similarity < high]
        theory = np.mean([MinHashParameters().match_probability(exact[pair]) for pair in inside]) if inside else 0.0
        recall = len(met.intersection(inside)) / len(inside) if inside else 0.0
        row = {**line, "similarity": f"{low:.1f}-{min(high, 1.0):.1f}", "pairs": len(inside)}
        print(json.dumps({**row, "found": round(recall, 4), "theory": round(float(theory), 4)}))
    for threshold in (0.7, 0.8):
        similar = {pair for pair, similarity in exact.items() if similarity >= threshold}
        recall, precision = len(met & similar) / len(similar), len(met & similar) / len(met)
        print(
            json.dumps({**line, "threshold": threshold, "recall": round(recall, 4), "precision": round(precision, 4)})
        )


if __name__ == "__main__":
    main()
