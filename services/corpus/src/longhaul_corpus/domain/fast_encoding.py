"""Encoding of byte-level BPE by tiktoken's engine behind a table of pieces, many times as fast as `tokenizers`.

The engine merges any two neighbours whose bytes together are a token, in the order of merges; `tokenizers` merges the
pairs that training saw. The two agree wherever training saw the pair that comes up, so the caller compares both on part
of each shard and falls back where they differ.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tiktoken
from tokenizers import Tokenizer

from longhaul_corpus.domain.merges import byte_alphabet
from longhaul_corpus.domain.piece_cache import PieceCache
from longhaul_corpus.domain.tokenizer import Encoder, Tokens

_COMPARED_CHARACTERS = 1 << 16
_COMPARED_EVERY = 100
_GPT2_SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SINGLE_DIGITS_SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"
"""The first after each digit was split off: white space before a digit stands at the end of its piece."""


@dataclass(frozen=True, slots=True)
class FastEncoding:
    """The engine, the id of each of its ranks, and the pieces it has met, where the cut is one that is known."""

    engine: tiktoken.Encoding
    ids: npt.NDArray[np.uint32]
    pieces: PieceCache | None = None

    def encode(self, text: str) -> npt.NDArray[np.uint32]:
        """Token ids of a text; special tokens in it are plain text."""
        if self.pieces is not None:
            return self.ids[self.pieces.encode(text)]
        ranks = self.engine.encode_to_numpy(text, allowed_special=set(), disallowed_special=())
        return self.ids[ranks]


def fast_encoding(tokenizer: Tokenizer) -> FastEncoding | None:
    """Return the fast engine for a tokenizer, None where its kind is not one that the engine can do."""
    config = json.loads(tokenizer.to_str())
    split = _split_pattern(config.get("pre_tokenizer"))
    if split is None or config.get("normalizer") is not None or not _plain_bpe(config["model"]):
        return None
    vocabulary: dict[str, int] = config["model"]["vocab"]
    alphabet = byte_alphabet()
    if not set(alphabet) <= vocabulary.keys():
        return None
    tokens = list(dict.fromkeys([*alphabet, *("".join(_pair(merge)) for merge in config["model"]["merges"])]))
    ranks = {bytes(alphabet[character] for character in token): rank for rank, token in enumerate(tokens)}
    engine = tiktoken.Encoding("longhaul", pat_str=split, mergeable_ranks=ranks, special_tokens={})
    ids = np.array([vocabulary[token] for token in tokens], dtype=np.uint32)
    known = split in (_GPT2_SPLIT, _SINGLE_DIGITS_SPLIT)
    cache = PieceCache(engine.encode_ordinary, single_digits=split == _SINGLE_DIGITS_SPLIT) if known else None
    return FastEncoding(engine, ids, cache)


def _plain_bpe(model: Mapping[str, Any]) -> bool:
    odd = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    return model["type"] == "BPE" and not any(model.get(name) for name in odd)


def _split_pattern(pre_tokenizer: Mapping[str, Any] | None) -> str | None:
    """Pattern that cuts a text as the pre-tokenizer does, for those that are known."""
    match pre_tokenizer:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return _GPT2_SPLIT
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
            ],
        }:
            return _SINGLE_DIGITS_SPLIT
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return pattern
    return None


def _pair(merge: str | Sequence[str]) -> Sequence[str]:
    return merge.split(" ") if isinstance(merge, str) else merge


class CheckedEncoder:
    """Encodes documents with the fast engine and compares part of them with the reference.

    The first 64 KiB of text are compared, then every 100th document. Once one differs (`differs`) the caller encodes
    everything with the reference.
    """

    def __init__(self, reference: Encoder, fast: FastEncoding) -> None:
        self._reference = reference
        self._fast = fast
        self._end = np.array([reference.end_of_text_id], dtype=reference.dtype)
        self._documents = 0
        self._compared_characters = 0
        self.differs = False

    def documents(self, texts: Sequence[str]) -> Iterator[Tokens]:
        """Yield the token ids of each text with the end-of-text token behind."""
        for text in texts:
            ids = np.concatenate([self._fast.encode(text).astype(self._end.dtype), self._end])
            if self._is_sampled(text):
                self.differs |= not np.array_equal(ids, next(self._reference.documents([text])))
            yield ids

    def _is_sampled(self, text: str) -> bool:
        self._documents += 1
        sampled = self._compared_characters < _COMPARED_CHARACTERS or self._documents % _COMPARED_EVERY == 0
        self._compared_characters += len(text) if sampled else 0
        return sampled
