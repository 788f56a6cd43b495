"""The table of pieces cuts as the patterns do and gives the ids of the reference."""

from __future__ import annotations

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from longhaul_corpus.domain import piece_cache
from longhaul_corpus.domain.fast_encoding import _GPT2_SPLIT, _SINGLE_DIGITS_SPLIT, CheckedEncoder, fast_encoding
from longhaul_corpus.domain.piece_cache import PieceCache
from longhaul_corpus.domain.spec import TokenizerTraining
from longhaul_corpus.domain.tokenizer import Encoder, train_tokenizer

from tests.unit.corpus.texts import library_texts

ALPHABET = st.sampled_from(list("abSstdml've'r '\n\t  12٣½é東.,-_😀 \u00a0\u3000\x1f"))


def pieces(text: str, single_digits: bool) -> list[str]:
    """The pieces that the cache cuts, seen by what it asks to be encoded."""
    asked: list[str] = []

    def encode(piece: str) -> list[int]:
        asked.append(piece)
        return [len(asked) - 1]

    return [asked[number] for number in PieceCache(encode, single_digits=single_digits).encode(text).tolist()]


@settings(max_examples=300, deadline=None)
@given(st.text(ALPHABET, max_size=30))
def test_text_is_cut_as_the_patterns_cut_it(text: str) -> None:
    for pattern, single in ((_GPT2_SPLIT, False), (_SINGLE_DIGITS_SPLIT, True)):
        assert pieces(text, single) == regex.findall(pattern, text)


@pytest.mark.parametrize("digits", ["none", "individual"])
def test_ids_are_those_of_the_reference_also_when_the_table_is_begun_anew(
    digits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = library_texts()[:80]
    training = TokenizerTraining(vocabulary_size=900, digits="none" if digits == "none" else "individual")
    tokenizer = train_tokenizer([texts], training)
    reference = Encoder(tokenizer, training.end_of_text)
    monkeypatch.setattr(piece_cache, "MAXIMUM_PIECES", 2000)
    fast = fast_encoding(tokenizer)
    assert fast is not None
    assert fast.pieces is not None
    odd = ["naïve café 東京 😀 don't we'll", " \n\n  x", "a\u00a0b\u3000c", ""]
    encoder = CheckedEncoder(reference, fast)
    for mine, theirs in zip(encoder.documents([*texts, *odd]), reference.documents([*texts, *odd]), strict=True):
        assert np.array_equal(mine, theirs)
    assert not encoder.differs
