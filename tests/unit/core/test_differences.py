from __future__ import annotations

from typing import Any

import pytest
from longhaul_core.db.differences import differences


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, {}, {}),
        ({"a": {"b": [1, {"c": 2}]}}, {"a": {"b": [1, {"c": 3}]}}, {"a.b[1].c": "2 -> 3"}),
        ({"a": 1}, {}, {"a": "1 -> (absent)"}),
        ({}, {"a": None}, {"a": "(absent) -> null"}),
        ({"a": [1]}, {"a": [1, 2]}, {"a": "[1] -> [1, 2]"}),
        ({"a": True}, {"a": 1}, {"a": "true -> 1"}),
        ({"a": {"b": 1}}, {"a": "ä"}, {"a": '{"b": 1} -> "ä"'}),
        (1, 2, {"(all)": "1 -> 2"}),
    ],
)
def test_differences_are_dotted_paths(old: Any, new: Any, expected: dict[str, str]) -> None:
    assert differences(old, new) == expected


def test_long_values_are_cut() -> None:
    (change,) = differences({"a": "x" * 1000}, {"a": "y"}).values()
    assert len(change) < 100
    assert change.endswith('… -> "y"')
