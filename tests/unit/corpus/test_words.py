"""Words and n-gram hashes against independent references."""

from __future__ import annotations

import xxhash
from datatrove.utils.text import simplify_text
from hypothesis import given, settings
from hypothesis import strategies as st
from longhaul_corpus.domain.hashing import gram_hashes
from longhaul_corpus.domain.words import simplified_bytes, simplified_text, split_words, word_spans

from tests.unit.corpus.texts import library_texts

_LATIN = st.text(st.characters(max_codepoint=0x24F), max_size=200)


@given(_LATIN)
@settings(max_examples=300, deadline=None)
def test_simplified_text_of_latin_scripts_equals_datatrove(text: str) -> None:
    assert simplified_text(text) == " ".join(simplify_text(text).split())


def test_simplified_text_of_real_documents_equals_datatrove() -> None:
    assert all(simplified_text(text) == simplify_text(text) for text in library_texts()[:60])


def test_simplified_text_maps_numbers_marks_and_accents() -> None:
    assert simplified_text("  Café — 1,234.5 naïve\tfoo_bar “x”…") == "cafe 0 0 naive foo bar x"


def test_words_of_scripts_without_spaces_are_characters() -> None:
    assert split_words("東京は2024年 ok") == ["東", "京", "は", "0", "年", "ok"]


def test_words_of_text_without_any_are_none() -> None:
    assert split_words("") == []
    assert split_words(" … !\n") == []


@given(st.text(max_size=300), st.integers(1, 14))
@settings(max_examples=200, deadline=None)
def test_gram_hashes_equal_xxhash_of_joined_words(text: str, words: int) -> None:
    simplified = simplified_bytes(text)
    split = simplified.tobytes().decode("utf-8", "surrogatepass").split(" ") if len(simplified) else []
    expected = [
        xxhash.xxh64_intdigest(" ".join(split[start : start + words]).encode("utf-8", "surrogatepass"))
        for start in range(len(split) - words + 1)
    ]
    assert gram_hashes(simplified, words).tolist() == expected


def test_word_spans_cover_every_word() -> None:
    simplified = simplified_bytes("One, two; THREE")
    starts, ends = word_spans(simplified)
    assert [simplified[start:end].tobytes() for start, end in zip(starts, ends, strict=True)] == [
        b"one",
        b"two",
        b"three",
    ]
