from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longhaul_core.errors import InvalidArgument
from longhaul_core.ids import ResourceName, canonical_json, check_id, fingerprint, new_uid, parse_name, parse_parent

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
ID = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)


@given(project=ID, id=ID)
def test_name_written_and_parsed_is_the_same(project: str, id: str) -> None:
    name = ResourceName(project, "datasets", id)
    assert parse_name(str(name), "datasets") == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "projects/p/datasets",
        "projects/p/datasets/",
        "projects/p/tokenizers/a",
        "projects/p/datasets/a/b",
        "project/p/datasets/a",
        "projects/P/datasets/a",
        "projects/p/datasets/-a",
        "projects/p/datasets/a-",
        "projects/p/datasets/a\n",
        "projects/p/datasets/" + "a" * 64,
        "projects/-/datasets/a",
    ],
)
def test_parse_name_malformed_names_the_field_and_value(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_name(text, "datasets", "dataset")
    assert caught.value.violations[0][0] == "dataset"
    assert caught.value.reason == "NAME_INVALID"


def test_check_id_longest_and_shortest_pass() -> None:
    assert check_id("a") == "a"
    assert check_id("a" * 63) == "a" * 63


def test_parse_parent_allows_all_projects_only_where_told() -> None:
    assert parse_parent("projects/demo") == "demo"
    assert parse_parent("projects/-", any_project=True) == "-"
    for text in ("projects/-", "demo", "projects/", "projects/a/b"):
        with pytest.raises(InvalidArgument):
            parse_parent(text)


@given(value=JSON)
def test_fingerprint_ignores_the_order_of_keys(value: object) -> None:
    def reverse(node: object) -> object:
        if isinstance(node, dict):
            return {key: reverse(node[key]) for key in reversed(list(node))}
        return [reverse(item) for item in node] if isinstance(node, list) else node

    assert fingerprint(reverse(value)) == fingerprint(value)
    assert re.fullmatch(r"[0-9a-f]{32}", fingerprint(value))


def test_fingerprint_is_stable_across_versions() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": "ä"}) == '{"a":"ä","b":[1,2.5,null]}'.encode()
    assert fingerprint({"b": [1, 2.5, None], "a": "ä"}) == "db8ffdc23941952d6549b62991cc1ea6"


def test_fingerprint_refuses_what_json_cannot_say() -> None:
    with pytest.raises(ValueError, match="JSON"):
        fingerprint(float("nan"))


def test_new_uid_is_new() -> None:
    uids = {new_uid() for _ in range(1000)}
    assert len(uids) == 1000
    assert all(re.fullmatch(r"[0-9a-f]{32}", uid) for uid in uids)
