"""Repeated paragraphs and runs of words, against a search that compares all with all; sampling of documents."""

from __future__ import annotations

import random

import numpy as np
import pytest
from longhaul_corpus.domain.clusters import keepers
from longhaul_corpus.domain.repeats import (
    cut_spans,
    cut_words,
    later_places,
    paragraph_hashes,
    paragraph_spans,
    window_hashes,
    word_bounds,
)
from longhaul_corpus.domain.sampling import sampled_copies


def as_bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), dtype=np.uint8)


def covered_by_search(texts: list[list[str]], words: int) -> list[set[int]]:
    """Words that lie in a run of `words` words which stood before: found by comparing all runs."""
    seen: set[tuple[str, ...]] = set()
    covered: list[set[int]] = []
    for text in texts:
        ours: set[int] = set()
        for start in range(len(text) - words + 1):
            run = tuple(text[start : start + words])
            if run in seen:
                ours |= set(range(start, start + words))
            seen.add(run)
        covered.append(ours)
    return covered


@pytest.mark.parametrize("seed", range(5))
def test_windows_cover_what_a_search_for_repeated_runs_covers(seed: int) -> None:
    chance = random.Random(seed)
    texts = [[chance.choice("ab") + "é" * chance.randrange(2) for _ in range(chance.randrange(40))] for _ in range(8)]
    words = 5
    hashes = [window_hashes(as_bytes("  ".join(text) + "\n"), words) for text in texts]
    places = [np.arange(len(found)) + (number << 24) for number, found in enumerate(hashes)]
    later = later_places(np.concatenate(hashes), np.concatenate(places))
    covered = [
        {place + ahead for place in (later[later >> 24 == number] & 0xFFFFFF).tolist() for ahead in range(words)}
        for number in range(len(texts))
    ]

    assert covered == covered_by_search(texts, words)
    assert any(covered)


def test_words_are_found_between_any_white_space() -> None:
    starts, ends = word_bounds(as_bytes(" ab\n\tc  d"))
    assert (starts.tolist(), ends.tolist()) == ([1, 5, 8], [3, 6, 9])
    assert (window_hashes(as_bytes("a b\nc"), 3) == window_hashes(as_bytes(" a  b c "), 3)).all()
    assert len(window_hashes(as_bytes("a b"), 3)) == 0
    assert len(window_hashes(as_bytes(""), 3)) == 0


def test_cutting_removes_the_marked_words_and_keeps_the_rest_as_it_was() -> None:
    text = "one  two\nthree four five six " + "end " * 60
    windows = np.zeros(len(text.split()) - 2, dtype=np.bool_)
    windows[[1, 2]] = True

    assert cut_words(text, windows, 3) == "one  six " + ("end " * 60).strip()
    windows[:] = True
    assert cut_words(text, windows, 3) is None


def test_paragraphs_are_compared_whatever_the_space_around_lines() -> None:
    text = "short\n\nA paragraph of two\nlines is here.\n\n  A paragraph of two  \n lines is here."
    spans = paragraph_spans(text, 20)
    hashes = paragraph_hashes(text, spans)

    assert [text[start:end].split()[0] for start, end in spans] == ["A", "A"]
    assert hashes[0] == hashes[1]
    assert cut_spans(f"{'x' * 300}\n\n{text}", [(302, 309)]) is not None
    assert cut_spans(text, spans) is None


def test_best_score_is_kept_then_the_longest_and_none_comes_last() -> None:
    labels = np.array([0, 0, 0, 3, 3, 5, 5])
    lengths = np.array([9, 5, 5, 4, 7, 1, 1])
    scores = np.array([0.1, 0.9, 0.9, np.nan, np.nan, np.nan, 0.2], dtype=np.float32)

    assert keepers(labels, lengths, longest=True, scores=scores).tolist() == [1, 1, 1, 4, 4, 6, 6]


def test_copies_are_the_factor_on_average_and_the_same_each_time() -> None:
    content = np.random.default_rng(0).integers(0, 1 << 63, 20_000).astype(np.uint64)
    factors = np.repeat([0.25, 1.0, 2.5, 3.0], 5000)
    copies = sampled_copies(factors, content, 1)

    assert (copies == sampled_copies(factors, content, 1)).all()
    assert abs(copies[:5000].mean() - 0.25) < 0.02
    assert set(copies[5000:10_000].tolist()) == {1}
    assert set(copies[10_000:15_000].tolist()) == {2, 3}
    assert abs(copies[10_000:15_000].mean() - 2.5) < 0.03
    assert set(copies[15_000:].tolist()) == {3}
