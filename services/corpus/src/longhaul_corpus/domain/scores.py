"""How well a tokenizer fits a text: fertility, continued words, bytes a token; and what a unigram model would cost."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import regex

from longhaul_corpus.domain.tokenizer import Encoder

_WORD = regex.compile(
    r"\s?(?:[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
    r"|[\p{L}\p{M}]+(?:['’]\p{L}+)?|\p{N}+|[^\s\p{L}\p{M}\p{N}])"
)


@dataclass(frozen=True, slots=True)
class TokenizerScore:
    """Figures over a sample of one source.

    Attributes:
        words: words in the sample: letter runs, digit runs, single other characters.
        word_tokens: tokens of those words, each encoded alone with the space before it.
        continued_words: words of two or more tokens.
        sample_bytes: UTF-8 bytes of the sample.
        sample_tokens: tokens of the sample as running text.
    """

    source: str
    words: int
    word_tokens: int
    continued_words: int
    sample_bytes: int
    sample_tokens: int

    @property
    def fertility(self) -> float:
        """Tokens a word."""
        return self.word_tokens / self.words if self.words else 0.0

    @property
    def continued_word_proportion(self) -> float:
        """Share of the words that are split in two or more."""
        return self.continued_words / self.words if self.words else 0.0

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes a token in running text."""
        return self.sample_bytes / self.sample_tokens if self.sample_tokens else 0.0

    def as_dict(self) -> dict[str, str | int | float]:
        """Return the figures as JSON values."""
        return {
            "source": self.source,
            "words": self.words,
            "fertility": self.fertility,
            "continued_word_proportion": self.continued_word_proportion,
            "bytes_per_token": self.bytes_per_token,
        }


def score_texts(source: str, texts: list[str], encoder: Encoder) -> TokenizerScore:
    """Measure a tokenizer on texts of one source."""
    words: Counter[str] = Counter()
    for text in texts:
        words.update(_WORD.findall(text))
    distinct = list(words)
    frequency = np.array([words[word] for word in distinct], dtype=np.int64)
    pieces = encoder.counts(distinct)
    return TokenizerScore(
        source=source,
        words=int(frequency.sum()),
        word_tokens=int((frequency * pieces).sum()),
        continued_words=int(frequency[pieces > 1].sum()),
        sample_bytes=sum(len(text.encode()) for text in texts),
        sample_tokens=int(encoder.counts(texts).sum()),
    )


def total_score(scores: Iterable[TokenizerScore], name: str) -> TokenizerScore:
    """Add the figures of several sources up."""
    parts = list(scores)
    return TokenizerScore(
        name,
        *(
            sum(values)
            for values in zip(
                *((s.words, s.word_tokens, s.continued_words, s.sample_bytes, s.sample_tokens) for s in parts),
                strict=True,
            )
        ),
    )


def unigram_entropy(counts: npt.NDArray[np.int64]) -> float:
    """Entropy of the distribution that the counts give, nats a token: the loss of the best model without context."""
    present = counts[counts > 0]
    probabilities = present / present.sum()
    return float(-(probabilities * np.log(probabilities)).sum())


def unigram_cross_entropy(counts: npt.NDArray[np.int64], model: npt.NDArray[np.int64]) -> float:
    """Cost of coding `counts` with the add-one smoothed distribution of `model`, nats a token."""
    probabilities = (model + 1) / (model.sum() + len(model))
    return float(-(counts * np.log(probabilities)).sum() / counts.sum())


def bits_per_byte(nats_per_token: float, tokens: int, text_bytes: int) -> float:
    """Turn a loss a token into bits a byte of text."""
    return nats_per_token * tokens / (math.log(2) * text_bytes)
