"""Malformed evaluation task files are reported with task, line and fault."""

import json

import pytest
from longhaul_core.errors import InvalidArgument
from longhaul_evaluation.domain.taskfile import check_task_file

CLOZE = {"id": "i", "context": "c", "choices": ["a", "b", "c", "d"], "gold": 3, "cluster": "k"}
BITS = {"id": "i", "text": "t", "cluster": "k"}


def _lines(*rows):
    return [json.dumps(row).encode() for row in rows]


def test_good_files_are_counted():
    assert check_task_file("cloze", "cloze", _lines(CLOZE, {**CLOZE, "id": "j"})) == 2
    assert check_task_file("bits_per_byte", "bits_per_byte", _lines(BITS)) == 1


@pytest.mark.parametrize(
    ("kind", "lines", "line", "message"),
    [
        ("cloze", [b"{"], 1, "no JSON"),
        ("cloze", [*_lines(CLOZE), b"[]"], 2, "a JSON object"),
        ("cloze", _lines({**CLOZE, "gold": 4}), 1, "'gold' is 4"),
        ("cloze", _lines({**CLOZE, "gold": True}), 1, "'gold' is True"),
        ("cloze", _lines({**CLOZE, "choices": ["a"]}), 1, "at least two"),
        ("cloze", _lines({**CLOZE, "choices": ["a", ""]}), 1, "'choices'"),
        ("cloze", _lines(CLOZE, CLOZE), 2, "occurs twice"),
        ("bits_per_byte", _lines({**BITS, "text": ""}), 1, "'text' is empty"),
        ("bits_per_byte", _lines({"id": "i", "text": "t"}), 1, "'cluster'"),
        ("bits_per_byte", [], 0, "no items"),
        ("mystery", [], 0, "none of"),
    ],
)
def test_bad_line_is_named(kind, lines, line, message):
    with pytest.raises(InvalidArgument, match=message) as caught:
        check_task_file("t", kind, lines)
    assert caught.value.reason == "MALFORMED_TASK_FILE"
    assert caught.value.metadata == {"task": "t", "line": str(line)}
