"""Tasks from held-out documents, and the user's own task files."""

from __future__ import annotations

import json

import pytest
from longhaul_core.errors import InvalidArgument
from longhaul_corpus.domain.passages import (
    CONTEXT_WORDS,
    CONTINUATION_WORDS,
    TEXT_CHARACTERS,
    HeldOutDocument,
    cloze_items,
    text_items,
)
from longhaul_corpus.domain.taskfiles import TaskKind, evaluation_item, read_task_file

from tests.unit.corpus.texts import library_texts


def documents(count: int) -> list[HeldOutDocument]:
    return [HeldOutDocument(f"d{number}", text, str(number)) for number, text in enumerate(library_texts()[:count])]


def test_text_items_are_bounded_beginnings_of_the_documents() -> None:
    held_out = [*documents(20), HeldOutDocument("empty", " \n", "99")]
    items = text_items(held_out, 100)
    assert [item.id for item in items] == [document.id for document in documents(20)]
    for item, document in zip(items, held_out, strict=False):
        assert document.text.strip().startswith(item.text)
        assert len(item.text) <= TEXT_CHARACTERS
    assert len(text_items(held_out, 3)) == 3


def test_cloze_items_ask_for_the_true_continuation_among_others_of_like_length() -> None:
    held_out = {document.id: document for document in documents(40)}
    items = cloze_items(list(held_out.values()), 30, 4, seed=1)
    assert len(items) == 30
    for item in items:
        text = " ".join(held_out[item.id.rpartition("-")[0]].text.split())
        whole = " ".join(f"{item.context} {item.choices[item.gold]}".split())
        assert whole in text
        assert len(item.context.split()) == CONTEXT_WORDS
        wrong = [choice for number, choice in enumerate(item.choices) if number != item.gold]
        assert len({*wrong, item.choices[item.gold]}) == 4
        assert not any(" ".join(choice.split()) in text for choice in wrong)
        assert all(len(choice.split()) == CONTINUATION_WORDS for choice in item.choices)
        lengths = [len(choice) for choice in item.choices]
        assert max(lengths) <= 2 * min(lengths)
    assert len({item.gold for item in items}) == 4


def test_cloze_items_take_passages_round_by_round() -> None:
    items = cloze_items(documents(10), 10, 4, seed=1)
    assert len({item.cluster for item in items}) == 10


def test_cloze_items_are_the_same_for_the_same_seed() -> None:
    first, again, other = (cloze_items(documents(20), 20, 4, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_cloze_items_need_as_many_clusters_as_choices() -> None:
    same = [
        HeldOutDocument(document.id, document.text, str(number % 3)) for number, document in enumerate(documents(20))
    ]
    assert cloze_items(same, 10, 4, seed=1) == []
    assert len(cloze_items(same, 10, 3, seed=1)) == 10


def lines(*rows: object) -> list[bytes]:
    return [json.dumps(row).encode() for row in rows]


def test_task_file_of_cloze_rows_is_read() -> None:
    kind, rows = read_task_file("t.jsonl", [*lines({"context": "a b", "choices": ["c", "d"], "gold": 1}), b"  "])
    assert kind is TaskKind.CLOZE
    assert rows == [{"id": "1", "context": "a b", "choices": ["c", "d"], "gold": 1, "cluster": "1"}]
    assert evaluation_item(kind, rows[0]).answer == "d"


def test_task_file_of_texts_is_read() -> None:
    kind, rows = read_task_file("t.jsonl", lines({"id": "x", "text": "some text"}))
    assert kind is TaskKind.BITS_PER_BYTE
    assert rows == [{"id": "x", "text": "some text", "cluster": "x"}]


GOOD = {"context": "a b", "choices": ["c", "d"], "gold": 1}


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        ([b'{"context": '], 1, "it is not JSON"),
        ([b"\xff\xfe{}"], 1, "it is not JSON"),
        ([b"[1, 2]"], 1, "it is not a JSON object"),
        (lines(GOOD, {"context": "a"}), 2, "it lacks `choices`, `gold`"),
        (lines({**GOOD, "gold": 2}), 1, "`gold` is 2, not the position of one of 2 choices"),
        (lines({**GOOD, "gold": True}), 1, "`gold` is True"),
        (lines({**GOOD, "choices": ["c"]}), 1, "`choices` is not a list of two or more texts"),
        (lines({**GOOD, "context": ""}), 1, "`context` is not a text"),
        (lines({"text": 3}), 1, "`text` is not a text"),
        (lines(GOOD, {"text": "x"}), 2, "it is a bits_per_byte item among cloze items"),
        (lines({**GOOD, "id": "x"}, {**GOOD, "id": "x"}), 2, "the id 'x' occurs twice"),
        ([], 0, "it holds no item"),
    ],
)
def test_task_file_that_is_malformed_is_refused_with_its_line(content: list[bytes], line: int, problem: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        read_task_file("quiz.jsonl", content)
    assert problem in refused.value.message
    assert refused.value.metadata == {"file": "quiz.jsonl", "line": str(line)}
