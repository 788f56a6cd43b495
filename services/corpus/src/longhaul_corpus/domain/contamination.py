"""N-grams shared by training documents and evaluation items (GPT-3, appendix C; 13 words by default).

Grams are taken from an item's question alone and from question and right answer together. An item shorter than the
gram is matched whole if it has at least 8 words; shorter ones are counted as unchecked, because so few words match by
chance. A gram found in more than `max(10, documents / 1000)` training documents is a common phrase (a licence line, a
page footer) and convicts nobody.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from longhaul_corpus.domain.hashing import Hashes, gram_hashes
from longhaul_corpus.domain.words import Bytes, simplified_bytes, word_spans

MINIMUM_ITEM_WORDS = 8
COMMON_DOCUMENTS = 10
COMMON_SHARE = 1000

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EvaluationItem:
    """Text of one evaluation item as decontamination sees it."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class GramIndex:
    """All grams of all items, sorted by length then hash; one row a (gram, item) pair.

    Attributes:
        hashes: hash of the gram: uint64[rows].
        words: words in the gram: int64[rows].
        tasks: number of the task: int64[rows].
        items: number of the item in its task: int64[rows].
        question: whether the gram stands in the question alone: bool[rows].
        unchecked: items too short to be checked, by task: int64[tasks].
    """

    hashes: Hashes
    words: Integers
    tasks: Integers
    items: Integers
    question: npt.NDArray[np.bool_]
    unchecked: Integers

    def lengths(self) -> list[int]:
        """Gram lengths in use, in words."""
        return [int(words) for words in np.unique(self.words)]


@dataclass(frozen=True, slots=True)
class Matches:
    """Places in training documents that hold a gram of the index.

    Attributes:
        documents: ordinal of the document: int64[matches].
        grams: first row of the gram in the index: int64[matches].
        positions: word of the document where the gram begins: int64[matches].
    """

    documents: Integers
    grams: Integers
    positions: Integers


def index_items(tasks: Sequence[Sequence[EvaluationItem]], gram_words: int, question_words: int = 0) -> GramIndex:
    """Index the grams of every item of every task; those of questions alone may have a length of their own."""
    rows: list[tuple[Hashes, int, int, int, bool]] = []
    unchecked = np.zeros(len(tasks), dtype=np.int64)
    for task, items in enumerate(tasks):
        for number, item in enumerate(items):
            question = simplified_bytes(item.question)
            whole = simplified_bytes(f"{item.question} {item.answer}")
            lengths = ((question, question_words or gram_words, True), (whole, gram_words, False))
            found = [(_grams(text, length), alone) for text, length, alone in lengths]
            rows += [(hashes, words, task, number, alone) for (hashes, words), alone in found if len(hashes)]
            unchecked[task] += not any(len(hashes) for (hashes, _), _ in found)
    return _index(rows, unchecked)


def _grams(text: Bytes, gram_words: int) -> tuple[Hashes, int]:
    """Hashes of the text's grams and their length, which is the text's own where it is shorter."""
    words = min(gram_words, len(word_spans(text)[0]))
    if words < min(gram_words, MINIMUM_ITEM_WORDS):
        return np.empty(0, dtype=np.uint64), gram_words
    return np.unique(gram_hashes(text, words)), words


def _index(rows: Sequence[tuple[Hashes, int, int, int, bool]], unchecked: Integers) -> GramIndex:
    sizes = [len(hashes) for hashes, *_ in rows]
    hashes = np.concatenate([row[0] for row in rows]) if rows else np.empty(0, dtype=np.uint64)
    words, tasks, items, alone = (
        np.repeat(np.array([row[column] for row in rows], dtype=np.int64), sizes) for column in (1, 2, 3, 4)
    )
    order = np.lexsort((items, tasks, hashes, words))
    return GramIndex(hashes[order], words[order], tasks[order], items[order], alone[order].astype(np.bool_), unchecked)


def match_document(ordinal: int, simplified: Bytes, index: GramIndex) -> Matches:
    """Find every gram of the index in one document."""
    grams, positions = [], []
    for words in index.lengths():
        first, last = np.searchsorted(index.words, (words, words + 1))
        hashes = gram_hashes(simplified, words)
        row = np.searchsorted(index.hashes[first:last], hashes)
        hit = np.flatnonzero(index.hashes[first:last][np.minimum(row, last - first - 1)] == hashes)
        grams.append(row[hit] + first)
        positions.append(hit)
    return _matches(ordinal, grams, positions)


def _matches(ordinal: int, grams: Sequence[Integers], positions: Sequence[Integers]) -> Matches:
    empty = np.empty(0, dtype=np.int64)
    found = np.concatenate([empty, *grams])
    return Matches(np.full(len(found), ordinal, dtype=np.int64), found, np.concatenate([empty, *positions]))


def join_matches(parts: Sequence[Matches]) -> Matches:
    """Concatenate matches."""
    empty = np.empty(0, dtype=np.int64)
    return Matches(
        np.concatenate([empty, *(part.documents for part in parts)]),
        np.concatenate([empty, *(part.grams for part in parts)]),
        np.concatenate([empty, *(part.positions for part in parts)]),
    )


def common_limit(documents: int) -> int:
    """Training documents that may hold a gram before it counts as a common phrase."""
    return max(COMMON_DOCUMENTS, documents // COMMON_SHARE)


def without_common(matches: Matches, documents: int) -> tuple[Matches, int]:
    """Leave out the matches of common phrases; also returns how many grams were common.

    Args:
        matches: all matches of the training side.
        documents: how many documents the training side has.
    """
    pairs = np.unique(np.stack([matches.grams, matches.documents], axis=1), axis=0)
    grams, spread = np.unique(pairs[:, 0], return_counts=True)
    common = grams[spread > common_limit(documents)]
    keep = ~np.isin(matches.grams, common)
    return Matches(matches.documents[keep], matches.grams[keep], matches.positions[keep]), len(common)


@dataclass(frozen=True, slots=True)
class TaskContamination:
    """What decontamination found for one task."""

    items_hit: int
    items_hit_in_question: int
    items_unchecked: int
    documents: int


def summarise(matches: Matches, index: GramIndex, task: int) -> TaskContamination:
    """Count the items of a task that the training side holds, and the documents that hold them."""
    numbers = _gram_numbers(index)
    ours = np.isin(numbers, numbers[matches.grams]) & (index.tasks == task)
    guilty = np.isin(numbers[matches.grams], numbers[ours])
    return TaskContamination(
        items_hit=len(np.unique(index.items[ours])),
        items_hit_in_question=len(np.unique(index.items[ours & index.question])),
        items_unchecked=int(index.unchecked[task]),
        documents=len(np.unique(matches.documents[guilty])),
    )


def tasks_by_document(matches: Matches, index: GramIndex) -> dict[int, list[int]]:
    """Numbers of the tasks whose items each matched document holds, by ordinal."""
    numbers = _gram_numbers(index)
    pairs = np.unique(np.stack([matches.documents, matches.grams], axis=1), axis=0)
    ends = np.searchsorted(numbers, numbers[pairs[:, 1]], side="right")
    found: dict[int, set[int]] = {}
    for (document, first), end in zip(pairs.tolist(), ends.tolist(), strict=True):
        found.setdefault(document, set()).update(index.tasks[first:end].tolist())
    return {document: sorted(tasks) for document, tasks in found.items()}


def spans_of(matches: Matches, index: GramIndex, document: int) -> list[tuple[int, int]]:
    """First word and number of words of each match in a document; matches are in order of documents."""
    first, last = np.searchsorted(matches.documents, (document, document + 1))
    words = index.words[matches.grams[first:last]]
    return list(zip(matches.positions[first:last].tolist(), words.tolist(), strict=True))


def _gram_numbers(index: GramIndex) -> Integers:
    """Number of the distinct (length, hash) of each row."""
    change = np.zeros(len(index.hashes), dtype=np.int64)
    change[1:] = (index.hashes[1:] != index.hashes[:-1]) | (index.words[1:] != index.words[:-1])
    return np.cumsum(change)
