"""SentencePiece models against the library itself, unigram training, digit policies, the sample as lm-eval logs it."""

from __future__ import annotations

import io
from typing import Any

import pytest
import sentencepiece
from longhaul_core.errors import InvalidArgument
from longhaul_corpus.domain.spec import TokenizerTraining
from longhaul_corpus.domain.tokenizer import Encoder, read_tokenizer, train_tokenizer

from tests.unit.corpus.texts import library_texts

TEXTS = library_texts()[:40]
ODD = ["naïve café 東京 😀", "  two  spaces   here ", "1234 5,678.9", "line\nbreak\tand tab", "x"]


def model(kind: str, **options: Any) -> bytes:
    """A small model, trained by the library."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in TEXTS for line in text.splitlines() if line.strip()),
        model_writer=out, model_type=kind, vocab_size=500, byte_fallback=True, minloglevel=2, num_threads=1, **options,
    )  # fmt: skip
    return out.getvalue()


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("options", [{}, {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}])
def test_imported_model_gives_the_ids_of_the_library(kind: str, options: dict[str, Any]) -> None:
    document = model(kind, **options)
    processor = sentencepiece.SentencePieceProcessor(model_proto=document)
    tokenizer, end_of_text = read_tokenizer(document)
    encoder = Encoder(tokenizer, end_of_text)
    lines = [line for text in TEXTS[:30] for line in text.splitlines() if line.strip()] + ODD[:1] + ODD[2:3] + ODD[4:]
    differing = [
        line
        for line, ids in zip(lines, encoder.documents(lines), strict=True)
        if ids[:-1].tolist() != processor.encode(line)
    ]

    assert end_of_text == "</s>"
    assert len(lines) > 150
    assert len(differing) <= len(lines) // 100  # pieces of equal score: the two break ties unlike


def test_file_that_is_no_tokenizer_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="cannot be read"):
        read_tokenizer(b"\x00\x01 nothing of the kind")


def test_unigram_tokenizer_encodes_anything_and_back() -> None:
    training = TokenizerTraining(vocabulary_size=600, algorithm="unigram")
    tokenizer = train_tokenizer([TEXTS], training)
    encoder = Encoder(tokenizer, training.end_of_text)

    assert tokenizer.get_vocab_size() == 600
    for text, ids in zip(ODD, encoder.documents(ODD), strict=True):
        assert tokenizer.decode(ids[:-1].tolist()) == text
        assert ids[-1] == encoder.end_of_text_id
        assert encoder.end_of_text_id not in ids[:-1]


@pytest.mark.parametrize(("digits", "longest"), [("individual", 1), ("triples", 3)])
def test_digit_policy_bounds_the_digits_of_a_token(digits: Any, longest: int) -> None:
    text = " ".join(["in 20012001 of 123456789"] * 500)
    tokenizer = train_tokenizer([[text, *TEXTS]], TokenizerTraining(vocabulary_size=700, digits=digits))
    pieces = tokenizer.encode(text).tokens

    assert max(sum(character.isdigit() for character in piece) for piece in pieces) == longest
