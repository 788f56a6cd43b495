"""Training, import, encoding and scoring of tokenizers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from longhaul_core.errors import FailedPrecondition, InvalidArgument
from longhaul_corpus.domain.fast_encoding import CheckedEncoder, fast_encoding
from longhaul_corpus.domain.pieces import PieceCounter, add_counts
from longhaul_corpus.domain.scores import (
    bits_per_byte,
    score_texts,
    total_score,
    unigram_cross_entropy,
    unigram_entropy,
)
from longhaul_corpus.domain.spec import TokenizerTraining
from longhaul_corpus.domain.tokenizer import (
    Encoder,
    read_tokenizer,
    token_dtype,
    train_from_counts,
    train_tokenizer,
    vocabulary_notes,
    vocabulary_size,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.unit.corpus.texts import library_texts

END = "<|endoftext|>"


@pytest.fixture(scope="module")
def by_digits() -> dict[str, Tokenizer]:
    texts = list(library_texts()[:60])
    modes: tuple[Literal["individual", "none"], ...] = ("individual", "none")
    return {digits: train_tokenizer([texts], TokenizerTraining(1024, digits=digits)) for digits in modes}


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_tokenizer([list(library_texts()[:60])], TokenizerTraining(1024, special_tokens=("<|pad|>",)))


def test_training_is_deterministic_in_whatever_order_texts_come() -> None:
    texts = list(library_texts()[:40])
    training = TokenizerTraining(640)
    files = {train_tokenizer([order], training).to_str() for order in (texts, texts[::-1], texts)}
    assert len(files) == 1


@given(
    st.lists(
        st.text(st.sampled_from("ab"), max_size=40) | st.text("ab é東'\n12", max_size=40), min_size=1, max_size=12
    ),
    st.sampled_from(["none", "individual"]),
)
@settings(max_examples=100, deadline=None)
def test_training_from_counts_gives_the_file_of_the_reference(
    texts: list[str], digits: Literal["individual", "none"]
) -> None:
    training = TokenizerTraining(300, digits=digits, special_tokens=("<|pad|>",))
    _assert_as_the_reference([*texts, "abab abcabc, the abab the"], training)


def test_training_from_counts_of_parts_gives_the_file_of_the_reference_on_real_texts() -> None:
    _assert_as_the_reference(list(library_texts()), TokenizerTraining(6000))


def _assert_as_the_reference(texts: list[str], training: TokenizerTraining) -> None:
    """Count in three parts and train; `tokenizers` trains on the texts, to whatever vocabulary they give."""
    reference = Tokenizer(models.BPE())
    reference.pre_tokenizer = train_tokenizer([texts], replace(training, vocabulary_size=258)).pre_tokenizer
    reference.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = list(training.specials)
    trainer = trainers.BpeTrainer(
        vocab_size=training.vocabulary_size,
        min_frequency=2,
        special_tokens=specials,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    reference.train_from_iterator([texts], trainer)
    counters = [PieceCounter(training) for _ in range(3)]
    for number, counter in enumerate(counters):
        counter.add(texts[number::3])
    counts = add_counts([counter.table() for counter in counters])
    reached = replace(training, vocabulary_size=min(training.vocabulary_size, reference.get_vocab_size()))
    assert train_from_counts(counts, reached).to_str() == reference.to_str()


def test_trained_tokenizer_has_the_size_and_specials_first(trained: Tokenizer) -> None:
    assert vocabulary_size(trained) == 1024
    assert [trained.token_to_id(token) for token in (END, "<|pad|>")] == [0, 1]


def test_vocabulary_larger_than_the_data_gives_is_refused_with_what_was_reached() -> None:
    with pytest.raises(FailedPrecondition, match="gives only 2") as refused:
        train_tokenizer([["a few words, a few words"]], TokenizerTraining(4096))
    assert refused.value.reason == "VOCABULARY_TOO_LARGE"
    assert 256 < int(refused.value.metadata["reached"]) < 300
    assert "256 or less" in refused.value.action or "257 or less" in refused.value.action


def test_digits_are_split_where_told_so() -> None:
    texts = ["in 2024 and 2024 and 2024 and 2024"] * 50
    split, whole = (
        train_tokenizer([texts], TokenizerTraining(261, digits=digits)) for digits in ("individual", "none")
    )  # type: ignore[arg-type]
    assert len(split.encode("2024").ids) == 4
    assert len(whole.encode("2024").ids) < 4


def test_encoder_ends_each_document_and_keeps_every_byte(trained: Tokenizer) -> None:
    texts = ["plain", "", f"says {END} itself", "ünïcode 東京 \U0001f600", *library_texts()[60:70]]
    encoder = Encoder(trained, END)
    encoded = list(encoder.documents(texts))
    assert all(ids[-1] == 0 and (ids[:-1] != 0).all() for ids in encoded)
    assert [trained.decode(ids[:-1].tolist()) for ids in encoded] == texts
    assert encoded[0].dtype == np.uint16


@given(st.text(max_size=200) | st.text("ab 1'st\n\t!", max_size=200))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("digits", ["individual", "none"])
def test_fast_engine_gives_the_same_ids_for_any_text(by_digits: dict[str, Tokenizer], digits: str, text: str) -> None:
    fast = fast_encoding(by_digits[digits])
    assert fast is not None
    assert fast.encode(text).tolist() == by_digits[digits].encode(text).ids


@pytest.mark.parametrize("digits", ["individual", "none"])
def test_fast_engine_gives_the_same_ids_for_real_documents(by_digits: dict[str, Tokenizer], digits: str) -> None:
    encoder, fast = Encoder(by_digits[digits], END), fast_encoding(by_digits[digits])
    assert fast is not None
    checked = CheckedEncoder(encoder, fast)
    texts = library_texts()[60:120]
    pairs = zip(encoder.documents(texts), checked.documents(texts), strict=True)
    assert all(np.array_equal(left, right) for left, right in pairs)
    assert not checked.differs


def test_fast_engine_that_differs_is_noticed(trained: Tokenizer) -> None:
    fast = fast_encoding(trained)
    assert fast is not None
    checked = CheckedEncoder(Encoder(trained, END), replace(fast, ids=fast.ids[::-1].copy()))
    list(checked.documents(["some text"]))
    assert checked.differs


def test_fast_engine_refuses_a_tokenizer_that_it_cannot_do() -> None:
    assert fast_encoding(Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))) is None


def test_token_type_follows_the_vocabulary() -> None:
    assert (token_dtype(65536), token_dtype(65537)) == ("uint16", "uint32")


def test_vocabulary_of_an_odd_size_is_remarked() -> None:
    assert vocabulary_notes(1024) == []
    assert "1000 is not a multiple of 128" in vocabulary_notes(1000)[0]


def test_imported_tokenizer_is_the_same(trained: Tokenizer) -> None:
    read, end = read_tokenizer(trained.to_str().encode())
    assert end == END
    assert read.encode("the same text").ids == trained.encode("the same text").ids


@pytest.mark.parametrize("content", [b"{}", b"not json", b"\xff", json.dumps({"model": {"type": "none"}}).encode()])
def test_import_of_something_else_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidArgument) as refused:
        read_tokenizer(content)
    assert refused.value.reason == "TOKENIZER_INVALID"


def test_import_without_the_end_token_is_refused_with_the_known_ones(trained: Tokenizer) -> None:
    with pytest.raises(InvalidArgument, match="'<eot>'") as refused:
        read_tokenizer(trained.to_str().encode(), "<eot>")
    assert refused.value.reason == "END_OF_TEXT_MISSING"
    assert "<|pad|>" in refused.value.action


def test_scores_count_tokens_of_words_with_the_space_before(trained: Tokenizer) -> None:
    score = score_texts("s", ["the the zqxj, 42"], Encoder(trained, END))
    pieces = [len(trained.encode(word).ids) for word in ("the", " the", " zqxj", ",", " 42")]
    assert score.words == 5
    assert score.fertility == pytest.approx(sum(pieces) / 5)
    assert score.continued_word_proportion == pytest.approx(sum(count > 1 for count in pieces) / 5)
    assert score.bytes_per_token == pytest.approx(16 / len(trained.encode("the the zqxj, 42").ids))


def test_total_score_adds_sources_up(trained: Tokenizer) -> None:
    encoder = Encoder(trained, END)
    one, two = list(library_texts()[:4]), list(library_texts()[4:9])
    total = total_score([score_texts("a", one, encoder), score_texts("b", two, encoder)], "total")
    both = score_texts("total", one + two, encoder)
    assert total == both
    assert 1.0 < total.fertility < 3.0


def test_unigram_entropy_is_that_of_the_distribution() -> None:
    assert unigram_entropy(np.array([5, 0, 5])) == pytest.approx(math.log(2))
    assert unigram_entropy(np.array([7, 0, 0])) == pytest.approx(0.0)
    counts = np.array([3, 1, 0, 4])
    assert unigram_cross_entropy(counts, counts * 10**9) == pytest.approx(unigram_entropy(counts), rel=1e-6)
    assert bits_per_byte(math.log(2) * 3, tokens=10, text_bytes=30) == pytest.approx(1.0)
