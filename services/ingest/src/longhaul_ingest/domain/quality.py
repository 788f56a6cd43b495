"""A classifier of good and bad texts, trained on the user's examples: hashed word 1- and 2-grams, one weight each.

It is fastText's supervised classifier (Joulin et al. 2016) for two classes: there the mean of the grams' vectors meets
one output vector, so each gram has in effect one weight; here that weight is learned itself. Trained by AdaGrad on the
logistic loss in a seeded order: the same examples give the same model, byte for byte. A document costs one pass over
its words (about 60 MB/s a core).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from longhaul_core.compiled import compiled
from longhaul_core.errors import FailedPrecondition, InvalidArgument

from longhaul_ingest.domain.wordlists import read_file
from longhaul_ingest.domain.words import Hashes, split_words

if TYPE_CHECKING:
    from longhaul_ingest.domain.features import Features
    from longhaul_ingest.domain.refusal import Refusal

Weights = npt.NDArray[np.float32]

BUCKET_BITS: Final = 20
QUANTILES: Final = 1001
SCHEMA: Final = "longhaul.quality-classifier/v1"


@dataclass(frozen=True, slots=True)
class Classifier:
    """Weights, and the quantiles of the scores of a sample of the corpus that it is used on.

    Attributes:
        weights: one a bucket of grams: float32[2 ** BUCKET_BITS].
        bias: added to the mean weight.
        quantiles: scores below which 0, 0.1, 0.2, … 100 percent of the sample are: float32[1001]; empty: no sample.
    """

    weights: Weights
    bias: float
    quantiles: Weights

    def score(self, hashes: Hashes) -> float:
        """Probability that a text is good, 0 to 1; 0.5 for one without words."""
        return float(_score(hashes, self.weights, self.bias))

    def percentile_score(self, percentile: float) -> float:
        """The score below which so many percent of the sample are. Raises FailedPrecondition without a sample."""
        if not len(self.quantiles):
            raise FailedPrecondition(
                "The classifier has no sample to take percentiles of.",
                reason="CLASSIFIER_NOT_CALIBRATED",
                action="Run `python -m longhaul_ingest.quality calibrate` with a sample of the corpus.",
            )
        return float(np.interp(percentile, np.linspace(0, 100, len(self.quantiles)), self.quantiles))

    def calibrate(self, texts: Sequence[str]) -> Classifier:
        """The same classifier with the quantiles of the scores of these texts."""
        scores = [self.score(split_words(text).hashes) for text in texts]
        found = np.quantile(np.array(scores), np.linspace(0, 1, QUANTILES)).astype(np.float32)
        return replace(self, quantiles=found)

    def dump(self) -> bytes:
        """The classifier as a file."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            allow_pickle=False,
            schema=np.array(SCHEMA),
            weights=self.weights,
            bias=np.array(self.bias, dtype=np.float32),
            quantiles=self.quantiles,
        )
        return buffer.getvalue()


def train(good: Sequence[str], bad: Sequence[str], *, epochs: int = 10, seed: int = 0) -> Classifier:
    """Learn to tell good texts from bad ones; both classes weigh the same however many there are.

    Raises:
        InvalidArgument: a class has no example.
    """
    if not good or not bad:
        raise InvalidArgument(
            f"There are {len(good)} good and {len(bad)} bad examples; both are needed.", reason="EXAMPLES_MISSING"
        )
    words = [split_words(text).hashes for text in (*good, *bad)]
    ends = np.cumsum([len(hashes) for hashes in words])
    labels = np.repeat(np.array([1.0, 0.0], dtype=np.float32), (len(good), len(bad)))
    balance = np.where(labels > 0, len(words) / (2 * len(good)), len(words) / (2 * len(bad))).astype(np.float32)
    generator = np.random.default_rng(seed)
    order = np.concatenate([generator.permutation(len(words)) for _ in range(epochs)])
    weights = np.zeros(1 << BUCKET_BITS, dtype=np.float32)
    bias = _train(np.concatenate(words), ends, labels, balance, order, weights)
    return Classifier(weights, float(bias), np.empty(0, dtype=np.float32))


@lru_cache(maxsize=4)
def load_classifier(path: str) -> Classifier:
    """Read a classifier. Raises FailedPrecondition where the file is none."""
    body = read_file(path)
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as archive:
            if str(archive["schema"]) != SCHEMA:
                raise ValueError(f"its schema is {archive['schema']}")
            return Classifier(archive["weights"], float(archive["bias"]), archive["quantiles"])
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise FailedPrecondition(
            f"{Path(path).name} is no quality classifier: {error}.",
            reason="FILTER_MODEL_INVALID",
            metadata={"path": path},
            action="Train one with `python -m longhaul_ingest.quality train`.",
        ) from error


def quality_refusals(
    text: Features, model: str, min_score: float | None, min_percentile: float | None
) -> Iterator[Refusal]:
    """Note the score of a text, and refuse it below the threshold."""
    from longhaul_ingest.domain.refusal import below

    classifier = load_classifier(model)
    score = classifier.score(text.words.hashes)
    text.labels.setdefault("scores", {})["quality"] = round(score, 4)
    yield from below("min_score", score, min_score)
    if min_percentile is not None:
        yield from below("min_percentile", score, classifier.percentile_score(min_percentile))


@compiled
def _bucket(first: np.uint64, second: np.uint64) -> np.uint64:
    value = (first ^ (second * np.uint64(0x9E3779B97F4A7C15))) * np.uint64(0xBF58476D1CE4E5B9)
    return (value ^ (value >> np.uint64(31))) >> np.uint64(44)


@compiled
def _mean_weight(hashes: Hashes, start: int, end: int, weights: Weights) -> float:
    total = 0.0
    for place in range(start, end):
        total += weights[_bucket(hashes[place], np.uint64(0))]
        if place + 1 < end:
            total += weights[_bucket(hashes[place], hashes[place + 1])]
    return total / max(2 * (end - start) - 1, 1)


@compiled
def _score(hashes: Hashes, weights: Weights, bias: float) -> float:
    if len(hashes) == 0:
        return 0.5
    return 1.0 / (1.0 + np.exp(-(_mean_weight(hashes, 0, len(hashes), weights) + bias)))  # type: ignore[no-any-return]


@compiled
def _train(
    hashes: Hashes,
    ends: npt.NDArray[np.int64],
    labels: Weights,
    balance: Weights,
    order: npt.NDArray[np.int64],
    weights: Weights,
) -> float:
    squares = np.full(len(weights), 1e-8, dtype=np.float32)
    bias, bias_squares = 0.0, 1e-8
    for number in order:
        start = ends[number - 1] if number > 0 else 0
        end = ends[number]
        if end == start:
            continue
        grams = 2 * (end - start) - 1
        score = 1.0 / (1.0 + np.exp(-(_mean_weight(hashes, start, end, weights) + bias)))
        error = (score - labels[number]) * balance[number]
        bias_squares += error * error
        bias -= 0.1 * error / np.sqrt(bias_squares)
        step = error / np.sqrt(grams)
        for place in range(start, end):
            for pair in range(2 if place + 1 < end else 1):
                bucket = _bucket(hashes[place], hashes[place + 1] if pair else np.uint64(0))
                squares[bucket] += step * step
                weights[bucket] -= 0.5 * step / np.sqrt(squares[bucket])
    return bias
