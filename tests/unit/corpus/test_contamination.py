"""N-grams shared with evaluation items: found, judged, cut out."""

from __future__ import annotations

from collections.abc import Sequence

from longhaul_corpus.domain.contamination import (
    COMMON_DOCUMENTS,
    EvaluationItem,
    GramIndex,
    Matches,
    index_items,
    join_matches,
    match_document,
    spans_of,
    summarise,
    tasks_by_document,
    without_common,
)
from longhaul_corpus.domain.cutting import LEAST_CHARACTERS, cut_sentences
from longhaul_corpus.domain.words import simplified_bytes

from tests.unit.corpus.texts import library_texts

QUESTION = " ".join(f"q{letter}" for letter in "abcdefghijklmnop")
ANSWER = " ".join(f"r{letter}" for letter in "abcdefghijkl")
FILLER = "nothing here is of any interest to anybody at all and it goes on and on without an end"


def match(texts: Sequence[str], index: GramIndex) -> Matches:
    return join_matches([match_document(number, simplified_bytes(text), index) for number, text in enumerate(texts)])


def test_document_with_thirteen_words_of_a_question_is_found_and_twelve_are_not() -> None:
    index = index_items([[EvaluationItem(QUESTION, ANSWER)]], 13)
    words = QUESTION.split()
    texts = [f"{FILLER} {' '.join(words[:13])} {FILLER}", f"{FILLER} {' '.join(words[:12])} {FILLER}", FILLER]
    found = match(texts, index)
    assert found.documents.tolist() == [0]
    assert found.positions.tolist() == [len(FILLER.split())]


def test_matches_equal_a_search_by_sets_of_words() -> None:
    texts = library_texts()
    items = [EvaluationItem(" ".join(text.split()[40:90]), "") for text in texts[:20]]
    index = index_items([items], 13)
    grams = {tuple(item) for entry in items for item in _grams(entry.question)}
    expected = {number for number, text in enumerate(texts) if grams & set(_grams(text))}
    assert set(match(texts, index).documents.tolist()) == expected
    assert expected >= set(range(20))


def _grams(text: str) -> list[tuple[str, ...]]:
    words = simplified_bytes(text).tobytes().decode().split()
    return [tuple(words[start : start + 13]) for start in range(len(words) - 12)]


def test_report_tells_question_from_answer_and_counts_documents() -> None:
    tasks = [
        [EvaluationItem(QUESTION, ANSWER), EvaluationItem("too short", "")],
        [EvaluationItem(FILLER, "")],
    ]
    index = index_items(tasks, 13)
    with_answer = " ".join([*QUESTION.split()[-6:], *ANSWER.split()])
    matches = match([with_answer, with_answer, "other"], index)
    first, second = (summarise(matches, index, task) for task in (0, 1))
    assert (first.items_hit, first.items_hit_in_question, first.items_unchecked, first.documents) == (1, 0, 1, 2)
    assert (second.items_hit, second.documents) == (0, 0)
    asked = match([QUESTION], index)
    assert summarise(asked, index, 0).items_hit_in_question == 1


def test_tasks_of_a_document_are_those_whose_items_it_holds() -> None:
    shared = EvaluationItem(QUESTION, "")
    index = index_items([[shared], [EvaluationItem(FILLER, "")], [shared]], 13)
    matches = match(["other", QUESTION, f"{FILLER} and {QUESTION}"], index)
    assert tasks_by_document(matches, index) == {1: [0, 2], 2: [0, 1, 2]}


def test_item_below_the_gram_length_is_matched_whole_from_eight_words() -> None:
    eight = " ".join(QUESTION.split()[:8])
    seven = " ".join(ANSWER.split()[:7])
    index = index_items([[EvaluationItem(eight, ""), EvaluationItem(seven, "")]], 13)
    assert index.lengths() == [8]
    assert index.unchecked.tolist() == [1]
    assert match([f"{FILLER} {eight} end", f"{FILLER} {seven} end"], index).documents.tolist() == [0]


def test_phrase_of_many_documents_convicts_nobody() -> None:
    index = index_items([[EvaluationItem(QUESTION, "")]], 13)
    matches = match([QUESTION] * (COMMON_DOCUMENTS + 1), index)
    left, common = without_common(matches, 100)
    assert (len(left.documents), common) == (0, 4)
    few = match([QUESTION] * COMMON_DOCUMENTS, index)
    assert len(without_common(few, 100)[0].documents) == len(few.documents)


def test_index_without_items_matches_nothing() -> None:
    index = index_items([[]], 13)
    assert len(match([FILLER], index).documents) == 0
    assert summarise(match([FILLER], index), index, 0).items_hit == 0


def test_cut_takes_out_the_sentences_of_the_span_only() -> None:
    before, after = "Before it. " + "x " * LEAST_CHARACTERS + "so. ", "\nAfter it stays. The end."
    text = f"{before}It was said: 3.5 times {QUESTION}! {after}"
    index = index_items([[EvaluationItem(QUESTION, "")]], 13)
    matches = match(["other", text, QUESTION], index)
    left = cut_sentences(text, spans_of(matches, index, 1))
    assert left is not None
    assert "qa" not in left
    assert left.startswith("Before it.")
    assert left.endswith("After it stays. The end.")


def test_cut_that_leaves_too_little_gives_nothing() -> None:
    assert cut_sentences(f"Short. {QUESTION}.", [(1, 13)]) is None
