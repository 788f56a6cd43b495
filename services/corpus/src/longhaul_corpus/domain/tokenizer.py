"""Tokenizers: training, import, and encoding of documents.

Training is deterministic: the same texts give the same file, byte for byte, in whatever order they come.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from longhaul_core.errors import FailedPrecondition, InvalidArgument
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from longhaul_corpus.domain.merges import train_merges
from longhaul_corpus.domain.pieces import PieceCounter
from longhaul_corpus.domain.sentencepiece import read_sentencepiece
from longhaul_corpus.domain.spec import BYTE_ALPHABET, END_OF_TEXT, TokenizerTraining

UINT16_VOCABULARY = 1 << 16
RECOMMENDED_MULTIPLE = 128
MINIMUM_PAIR_COUNT = 2
"""A pair seen once teaches nothing."""

USUAL_END_OF_TEXT = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "[SEP]")
"""Tried in this order where an imported tokenizer's end of text is not named."""

Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


def train_tokenizer(batches: Iterable[list[str]], training: TokenizerTraining) -> Tokenizer:
    """Train a tokenizer on batches of texts: byte-level BPE, or unigram over the same bytes.

    Both work on bytes shown as characters, so that no text is outside the vocabulary.

    Raises:
        FailedPrecondition: the texts do not hold enough repeated pairs for the vocabulary (VOCABULARY_TOO_LARGE).
    """
    if training.from_counts:
        counter = PieceCounter(training)
        for texts in batches:
            counter.add(texts)
        return train_from_counts(counter.table(), training)
    tokenizer = Tokenizer(models.BPE() if training.algorithm == "bpe" else models.Unigram())
    _set_sides(tokenizer, training)
    tokenizer.train_from_iterator(batches, _trainer(training))
    return _reaching(tokenizer, training)


def train_from_counts(counts: pa.Table, training: TokenizerTraining) -> Tokenizer:
    """Train byte-level BPE on counted pieces: the tokenizer that `tokenizers` makes of the texts, byte for byte.

    Raises:
        FailedPrecondition: as `train_tokenizer`.
    """
    vocabulary, merges = train_merges(
        counts["piece"].to_pylist(),
        counts["count"].to_numpy(),
        specials=training.specials,
        size=training.vocabulary_size,
        minimum_count=MINIMUM_PAIR_COUNT,
    )
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    _set_sides(tokenizer, training)
    tokenizer.add_special_tokens(list(training.specials))
    return _reaching(tokenizer, training)


def _set_sides(tokenizer: Tokenizer, training: TokenizerTraining) -> None:
    tokenizer.pre_tokenizer = _pre_tokenizer(training)
    tokenizer.decoder = decoders.ByteLevel()


def _reaching(tokenizer: Tokenizer, training: TokenizerTraining) -> Tokenizer:
    """The tokenizer, where its vocabulary is as large as it shall be."""
    reached = tokenizer.get_vocab_size()
    if reached < training.vocabulary_size:
        raise FailedPrecondition(
            f"A vocabulary of {training.vocabulary_size} was asked for, but the text gives only {reached} entries",
            reason="VOCABULARY_TOO_LARGE",
            metadata={"asked": str(training.vocabulary_size), "reached": str(reached)},
            action=f"Set tokenizer.vocabulary_size to {_round_down(reached)} or less, or add text.",
        )
    return tokenizer


def _trainer(training: TokenizerTraining) -> trainers.Trainer:
    common: dict[str, Any] = {
        "vocab_size": training.vocabulary_size,
        "special_tokens": list(training.specials),
        "initial_alphabet": pre_tokenizers.ByteLevel.alphabet(),
        "show_progress": False,
    }
    if training.algorithm == "unigram":
        return trainers.UnigramTrainer(unk_token=training.end_of_text, **common)
    return trainers.BpeTrainer(min_frequency=MINIMUM_PAIR_COUNT, **common)


def read_tokenizer(document: bytes, end_of_text: str = "") -> tuple[Tokenizer, str]:
    """Read a `tokenizer.json` or a SentencePiece model; returns it with its end-of-text token.

    Where none is named, the first usual one is taken.

    Raises:
        InvalidArgument: it is not one (TOKENIZER_INVALID), or lacks the end-of-text token (END_OF_TEXT_MISSING).
    """
    try:
        looks_like_json = document.lstrip()[:1] == b"{"
        tokenizer = Tokenizer.from_str(document.decode()) if looks_like_json else read_sentencepiece(document)
    except Exception as error:  # tokenizers raises bare Exception
        raise InvalidArgument(
            f"The tokenizer file cannot be read: {error}",
            reason="TOKENIZER_INVALID",
            violations=[("tokenizer_json", str(error))],
            action="Give a tokenizer.json as the tokenizers library saves it, or a SentencePiece model.",
        ) from error
    candidates = (end_of_text,) if end_of_text else USUAL_END_OF_TEXT
    for candidate in candidates:
        if tokenizer.token_to_id(candidate) is not None:
            return tokenizer, candidate
    known = sorted(token.content for token in tokenizer.get_added_tokens_decoder().values())
    wanted = " or ".join(repr(candidate) for candidate in candidates)
    raise InvalidArgument(
        f"The tokenizer has no token {wanted} to end documents with",
        reason="END_OF_TEXT_MISSING",
        violations=[("end_of_text", f"{wanted} is not in the vocabulary")],
        action=f"Name one of its special tokens: {', '.join(known) or 'it has none'}.",
    )


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Id of a token that the tokenizer is known to have."""
    return int(tokenizer.get_vocab(with_added_tokens=True)[token])


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Rows an embedding needs: the highest id and one."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def vocabulary_notes(size: int) -> list[str]:
    """What a person should know about a vocabulary of this size."""
    if size % RECOMMENDED_MULTIPLE == 0:
        return []
    return [f"A vocabulary of {size} is not a multiple of {RECOMMENDED_MULTIPLE}: matrix products are slower on GPUs."]


def token_dtype(size: int) -> str:
    """Numpy name of the smallest type that shards use for a vocabulary of `size`."""
    return "uint16" if size <= UINT16_VOCABULARY else "uint32"


class Encoder:
    """Encodes documents as arrays of token ids, each ended by the end-of-text token.

    Special tokens that stand literally in a text are encoded as plain text: a document cannot end itself.
    """

    def __init__(self, tokenizer: Tokenizer, end_of_text: str) -> None:
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.end_of_text_id = token_id(tokenizer, end_of_text)
        self.dtype = np.dtype(token_dtype(vocabulary_size(tokenizer)))

    def documents(self, texts: Sequence[str]) -> Iterator[Tokens]:
        """Yield the token ids of each text with the end-of-text token behind."""
        for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False):
            ids = encoding.ids
            ids.append(self.end_of_text_id)
            yield np.array(ids, dtype=self.dtype)

    def counts(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Number of tokens of each text, without the end: int64[texts]."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return np.array([len(encoding) for encoding in encodings], dtype=np.int64)


def _pre_tokenizer(training: TokenizerTraining) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if training.digits == "none":
        return byte_level
    if training.digits == "triples":
        return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"), byte_level])
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])


def _round_down(size: int) -> int:
    """Largest recommended vocabulary that fits in `size`."""
    return max(size - size % RECOMMENDED_MULTIPLE, BYTE_ALPHABET + 1)
