"""Cutting contaminated sentences out of a training document."""

from collections.abc import Sequence

import numpy as np
import regex

from longhaul_corpus.domain.words import simplified_bytes, word_spans

LEAST_CHARACTERS = 200
"""A document of which less is left is dropped (GPT-3, appendix C)."""
_SENTENCE_END = regex.compile(r"(?<=[.!?](?=\s))|(?<=[。！？\n])")


def split_sentences(text: str) -> list[str]:
    """Sentences and lines, which joined give the text: each ends after its full stop or line feed."""
    return [sentence for sentence in _SENTENCE_END.split(text) if sentence]


def cut_sentences(text: str, spans: Sequence[tuple[int, int]]) -> str | None:
    """Return the text without the sentences and lines that hold any of the word spans; None if too little is left.

    Args:
        text: the document.
        spans: first word and number of words of each span, in simplified words of the whole text.
    """
    sentences = split_sentences(text)
    ends = np.cumsum([len(word_spans(simplified_bytes(sentence))[0]) for sentence in sentences])
    keep = np.ones(len(sentences), dtype=np.bool_)
    for start, count in spans:
        first = int(np.searchsorted(ends, start, side="right"))
        last = int(np.searchsorted(ends, start + count - 1, side="right"))
        keep[first : last + 1] = False
    rest = "".join(sentence for sentence, kept in zip(sentences, keep, strict=True) if kept).strip()
    return rest if len(rest) >= LEAST_CHARACTERS else None
