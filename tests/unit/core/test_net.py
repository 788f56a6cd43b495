from __future__ import annotations

import pytest
from longhaul_core.errors import InvalidArgument
from longhaul_core.net import is_loopback, join_address, split_address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:7401", "127.0.0.1", 7401), ("[::1]:0", "::1", 0), ("name:65535", "name", 65535)],
)
def test_address_splits_and_joins(text: str, host: str, port: int) -> None:
    assert split_address(text) == (host, port)
    assert join_address(host, port) == text


@pytest.mark.parametrize("text", ["", "host", ":7401", "host:", "host:x", "host:-1", "host:65536"])
def test_malformed_address_names_field_and_value(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        split_address(text, "listen_address")
    assert caught.value.violations[0][0] == "listen_address"
    assert repr(text) in caught.value.message


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("db", False)],
)
def test_loopback_is_known(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
