from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longhaul_core.errors import InvalidArgument
from longhaul_core.rpc.paging import decode_page_token, encode_page_token, page_size

POSITION = st.lists(st.integers() | st.text(), min_size=1, max_size=3)


@given(position=POSITION, query=POSITION)
def test_token_gives_back_its_position(position: list[object], query: list[object]) -> None:
    token = encode_page_token(position, query)
    assert token.isascii()
    assert decode_page_token(token, query) == position


def test_empty_token_is_the_first_page() -> None:
    assert decode_page_token("", ["any"]) is None


@given(text=st.text(min_size=1, max_size=60))
def test_foreign_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decode_page_token(text, ["query"])
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


@pytest.mark.parametrize("content", [b"[]", b"3", b'{"a":1,"b":2}', b'["x"]', b"[[1],[2]]"])
def test_token_of_other_json_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidArgument):
        decode_page_token(base64.urlsafe_b64encode(content).decode().rstrip("="), ["query"])


def test_token_of_another_query_is_refused() -> None:
    token = encode_page_token(["a"], ["demo", "RUNNING"])
    with pytest.raises(InvalidArgument, match="another query"):
        decode_page_token(token, ["demo", "QUEUED"])


@pytest.mark.parametrize(("requested", "used"), [(0, 50), (1, 1), (1000, 1000), (5000, 1000)])
def test_page_size_is_bounded(requested: int, used: int) -> None:
    assert page_size(requested) == used


def test_page_size_negative_is_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        page_size(-1)
    assert caught.value.violations == (("page_size", "must not be negative"),)
