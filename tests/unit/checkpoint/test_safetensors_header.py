"""The header check accepts what safetensors writes and refuses each corruption of it."""

import json

import numpy as np
import pytest
from longhaul_checkpoint.domain.safetensors_header import HeaderError, check_header, header_length
from safetensors.numpy import save


def _check(data: bytes) -> int:
    length = header_length(data[:8], len(data))
    return check_header(data[8 : 8 + length], len(data)).tensors


def _file(header: object, data: bytes = b"") -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


def test_header_of_a_real_file_is_accepted():
    data = save(
        {"a": np.zeros((3, 4), np.float32), "b": np.zeros((0,), np.int64), "c": np.float16([1.5])},
        metadata={"format": "pt"},
    )
    assert _check(data) == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x01\x02", "too few"),
        ((1 << 60).to_bytes(8, "little") + b"{}", "at most"),
        ((50).to_bytes(8, "little") + b"{}", "in a file of 10"),
        (_file(b"\x80\x04pickle"), "no JSON"),
        (_file(b"[" * 100_000), "no JSON"),
        (_file([1]), "no JSON object"),
        (_file({"a": 1}), "no description"),
        (_file({"a": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}}, b"1234"), "unknown dtype"),
        (_file({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"), "impossible shape"),
        (_file({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, b"1234"), "impossible shape"),
        (_file({"a": {"dtype": "F32", "shape": [1] * 17, "data_offsets": [0, 4]}}, b"1234"), "impossible shape"),
        (_file({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}, b"1234"), "impossible offsets"),
        (_file({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, b"1234"), "does not fill"),
        (_file({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"12345678"), "cover 4 of 8"),
        (_file({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"12345678"), "starts at byte 4"),
    ],
)
def test_header_that_lies_is_refused(data, message):
    with pytest.raises(HeaderError, match=message):
        _check(data)
