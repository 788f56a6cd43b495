"""Words and repeated n-grams against plain Python."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longhaul_ingest.domain.features import count_repeats
from longhaul_ingest.domain.grams import repeated_gram_characters, top_gram_characters
from longhaul_ingest.domain.words import hash_word, split_words

PATTERN = re.compile(r"\w+(?:['’-]\w+)*")
TEXTS = st.text(alphabet="ab_1é中ß²'’- .\n😀\u0301", max_size=60) | st.text(max_size=40)


@given(TEXTS)
def test_split_words_any_text_finds_what_the_pattern_finds(text: str) -> None:
    words, expected = split_words(text), PATTERN.findall(text)

    assert words.lengths.tolist() == [len(word) for word in expected]
    assert words.hashes.tolist() == [hash_word(word) for word in expected]


def test_split_words_different_words_have_different_hashes() -> None:
    hashes = {hash_word(f"word{number}") for number in range(20_000)}

    assert len(hashes) == 20_000


@pytest.mark.parametrize("n", [2, 3, 4, 5, 10])
@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=40))
def test_gram_counts_equal_the_definition(n: int, words: list[str]) -> None:
    text = " ".join(words)

    assert top_gram_characters(split_words(text), n) == _top(words, n)
    assert repeated_gram_characters(split_words(text), n) == _repeated(words, n)


def test_count_repeats_counts_later_occurrences_only() -> None:
    repeats = count_repeats(["ab", "c", "ab", "ab"])

    assert (repeats.elements, repeats.total, repeats.characters) == (2, 4, 4)
    assert repeats.fraction == 0.5


def _top(words: list[str], n: int) -> int:
    grams = [" ".join(words[index : index + n]) for index in range(len(words) - n + 1)]
    if not grams:
        return 0
    gram, count = Counter(grams).most_common(1)[0]
    return len(gram) * count


def _repeated(words: list[str], n: int) -> int:
    seen: set[tuple[str, ...]] = set()
    characters = index = 0
    while index < len(words) - n + 1:
        gram = tuple(words[index : index + n])
        if gram in seen:
            characters += sum(map(len, gram))
            index += n
        else:
            seen.add(gram)
            index += 1
    return characters
