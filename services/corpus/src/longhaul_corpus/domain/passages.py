"""Evaluation tasks from held-out documents: texts for bits per byte, cloze questions with choices of like length."""

import bisect
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import regex

CONTEXT_WORDS = 24
CONTINUATION_WORDS = 12
TEXT_CHARACTERS = 4096
"""A bits-per-byte text is cut at a word after this many characters: evaluation runs on every checkpoint."""
_NEIGHBOURS_A_CHOICE = 4
_WORD = regex.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class HeldOutDocument:
    """A validation document, in the seeded order that tasks take documents in."""

    id: str
    text: str
    cluster: str


@dataclass(frozen=True, slots=True)
class TextItem:
    """An item of a bits-per-byte task."""

    id: str
    text: str
    cluster: str


@dataclass(frozen=True, slots=True)
class ClozeItem:
    """A passage and possible continuations, `gold` the true one."""

    id: str
    context: str
    choices: tuple[str, ...]
    gold: int
    cluster: str


@dataclass(frozen=True, slots=True)
class _Passage:
    document: HeldOutDocument
    number: int
    context: str
    continuation: str


def text_items(documents: Sequence[HeldOutDocument], count: int) -> list[TextItem]:
    """Items of the bits-per-byte task: the first `count` documents with any text, cut to a bounded length."""
    texts = ((document, _cut(document.text.strip())) for document in documents)
    return [TextItem(document.id, text, document.cluster) for document, text in texts if text][:count]


def cloze_items(documents: Sequence[HeldOutDocument], count: int, choices: int, seed: int) -> list[ClozeItem]:
    """Cloze questions: the wrong choices are continuations in other clusters, close in length to the true one.

    Fewer than `count` come back where the documents do not hold as many, none where fewer than `choices` clusters have
    a passage. Passages are taken round by round over the documents, so that no document dominates.
    """
    passages = list(_passages(documents))
    pool = sorted(passages, key=lambda passage: (len(passage.continuation), passage.document.id, passage.number))
    if len({passage.document.cluster for passage in passages}) < choices:
        return []
    ordered = sorted(passages, key=lambda passage: passage.number)
    return [_question(passage, pool, choices, seed) for passage in ordered[:count]]


def _cut(text: str) -> str:
    if len(text) <= TEXT_CHARACTERS:
        return text
    boundary = text.rfind(" ", 0, TEXT_CHARACTERS)
    return text[: boundary if boundary > 0 else TEXT_CHARACTERS].rstrip()


def _passages(documents: Sequence[HeldOutDocument]) -> Iterator[_Passage]:
    """Yield consecutive windows of context and continuation of each document."""
    size = CONTEXT_WORDS + CONTINUATION_WORDS
    for document in documents:
        spans = [match.span() for match in _WORD.finditer(document.text)]
        for number in range(len(spans) // size):
            start = number * size
            middle = start + CONTEXT_WORDS
            context = document.text[spans[start][0] : spans[middle - 1][1]]
            continuation = document.text[spans[middle][0] : spans[start + size - 1][1]]
            yield _Passage(document, number, context, continuation)


def _question(passage: _Passage, pool: Sequence[_Passage], choices: int, seed: int) -> ClozeItem:
    identity = f"{passage.document.id}-{passage.number}"
    chance = random.Random(f"{seed}:{identity}")  # noqa: S311  (reproducible, not secret)
    near = _nearest_of_other_clusters(passage, pool, (choices - 1) * _NEIGHBOURS_A_CHOICE)
    wrong = [other.continuation for other in chance.sample(near, choices - 1)]
    gold = chance.randrange(choices)
    answers = (*wrong[:gold], passage.continuation, *wrong[gold:])
    return ClozeItem(identity, passage.context, answers, gold, passage.document.cluster)


def _nearest_of_other_clusters(passage: _Passage, pool: Sequence[_Passage], count: int) -> list[_Passage]:
    """Passages closest in length to the continuation, at most one a cluster, fewer than `count` where clusters lack."""
    length = len(passage.continuation)
    above = bisect.bisect_left(pool, length, key=lambda other: len(other.continuation))
    below = above - 1
    found: dict[str, _Passage] = {passage.document.cluster: passage}
    while len(found) <= count and (below >= 0 or above < len(pool)):
        up = len(pool[above].continuation) - length if above < len(pool) else None
        down = length - len(pool[below].continuation) if below >= 0 else None
        if down is None or (up is not None and up <= down):
            candidate, above = pool[above], above + 1
        else:
            candidate, below = pool[below], below - 1
        found.setdefault(candidate.document.cluster, candidate)
    return [other for cluster, other in found.items() if cluster != passage.document.cluster]
