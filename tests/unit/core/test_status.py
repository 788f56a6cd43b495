from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st
from longhaul_core.errors import (
    ERROR_CLASSES,
    ErrorCode,
    Internal,
    InvalidArgument,
    LonghaulError,
    NotFound,
    Unavailable,
)
from longhaul_core.rpc.status import MAXIMUM_BYTES, from_status, grpc_code, to_status

TEXT = st.text(max_size=30)


@given(
    code=st.sampled_from(sorted(ErrorCode, key=lambda code: code.name)),
    message=TEXT,
    reason=st.from_regex(r"[A-Z_]{1,20}", fullmatch=True),
    metadata=st.dictionaries(TEXT.filter(lambda key: key != "action"), TEXT, max_size=3),
    action=TEXT,
)
def test_error_over_the_wire_is_the_same(
    code: ErrorCode, message: str, reason: str, metadata: dict[str, str], action: str
) -> None:
    error = ERROR_CLASSES[code](message, reason=reason, metadata=metadata, action=action)
    back = from_status(status_pb2.Status.FromString(to_status(error).SerializeToString()))
    assert type(back) is type(error)
    assert vars(back) == vars(error)


def test_violations_and_retry_time_arrive() -> None:
    invalid = from_status(to_status(InvalidArgument("m", violations=[("a.b", "wrong"), ("c", "missing")])))
    assert isinstance(invalid, InvalidArgument)
    assert invalid.violations == (("a.b", "wrong"), ("c", "missing"))
    later = from_status(to_status(Unavailable("m", retry_after_seconds=2.5)))
    assert isinstance(later, Unavailable)
    assert later.retry_after_seconds == 2.5


def test_status_never_outgrows_a_trailer() -> None:
    for letter in ("m", "\U0001f9c0"):
        large = InvalidArgument(
            letter * 10_000,
            violations=[(f"field{number}", letter * 1000) for number in range(50)],
            metadata={f"key{number}" * 100: letter * 1000 for number in range(50)},
            action=letter * 10_000,
        )
        status = to_status(large)
        assert status.ByteSize() <= MAXIMUM_BYTES
        assert len(status.details) == 2


def test_status_of_another_server_is_read_as_far_as_it_goes() -> None:
    bare = status_pb2.Status(code=5, message="no such thing")
    bare.details.add().Pack(error_details_pb2.DebugInfo(detail="x"))
    error = from_status(bare)
    assert isinstance(error, NotFound)
    assert error.message == "no such thing"
    assert isinstance(from_status(status_pb2.Status(code=2, message="?")), Internal)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_code_has_its_name_in_grpc(code: ErrorCode) -> None:
    assert grpc_code(code) is grpc.StatusCode[code.value]


def test_error_as_text_says_what_to_do() -> None:
    assert str(LonghaulError("it broke", action="mend it")) == "it broke (mend it)"
    assert str(LonghaulError("it broke")) == "it broke"
    assert NotFound("x").reason == "NOT_FOUND"
