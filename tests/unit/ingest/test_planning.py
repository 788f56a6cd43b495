"""Cutting files into shards, counting, and judging the counts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longhaul_core.errors import Internal
from longhaul_core.recipe import SourceKind
from longhaul_ingest.domain.documents import Outcome
from longhaul_ingest.domain.planning import MAXIMUM_SHARD_BYTES, MINIMUM_SHARD_BYTES, SourceFile, plan_shards
from longhaul_ingest.domain.rates import RateWindow
from longhaul_ingest.domain.tally import MAXIMUM_DAMAGES, Tally
from longhaul_ingest.domain.verdict import judge

SIZES = st.lists(st.integers(0, 1 << 34), max_size=30)


def files(sizes: Sequence[int], ending: str = "jsonl") -> list[SourceFile]:
    return [SourceFile(f"/data/{n:03d}.{ending}", f"{n:03d}.{ending}", size, str(n)) for n, size in enumerate(sizes)]


@given(SIZES, st.sampled_from([(SourceKind.JSONL, "jsonl"), (SourceKind.JSONL, "jsonl.gz"), (SourceKind.TEXT, "txt")]))
def test_shards_cover_every_byte_once_and_in_order(sizes: list[int], form: tuple[SourceKind, str]) -> None:
    kind, ending = form
    listed = files(sizes, ending)
    shards = plan_shards([("a", kind, listed)])
    pieces = [piece for shard in shards for piece in shard.pieces]

    for file in listed:
        cuts = [(piece.start, piece.end) for piece in pieces if piece.path == file.path]
        assert [start for start, _ in cuts] == [0, *[end for _, end in cuts[:-1]]]
        assert cuts[-1][1] == file.size
    assert [piece.label for piece in pieces] == sorted(piece.label for piece in pieces)
    assert [shard.index for shard in shards] == list(range(len(shards)))


def test_shards_have_a_bounded_size_where_files_can_be_cut() -> None:
    small = plan_shards([("a", SourceKind.WARC, files([5_000_000], "warc.gz"))])
    large = plan_shards([("a", SourceKind.WARC, files([1 << 36], "warc.gz"))])

    assert 16 <= len(small) <= 32
    assert all(MINIMUM_SHARD_BYTES / 2 <= shard.size <= 2 * MINIMUM_SHARD_BYTES for shard in small)
    assert max(shard.size for shard in large) <= 2 * MAXIMUM_SHARD_BYTES


def test_shards_hold_files_of_one_source_only() -> None:
    shards = plan_shards([("a", SourceKind.TEXT, files([10] * 5)), ("b", SourceKind.TEXT, files([10] * 5))])

    assert [(shard.source, len(shard.pieces)) for shard in shards] == [("a", 5), ("b", 5)]


def counted(kept: int = 0, dropped: int = 0, failed: int = 0, source: str = "a") -> Tally:
    tally = Tally()
    for _ in range(kept):
        tally.keep(source, 100)
    for _ in range(dropped):
        tally.refuse(source, Outcome.DROPPED, "short")
    for _ in range(failed):
        tally.refuse(source, Outcome.FAILED, "binary")
    return tally


def test_tally_sum_of_stored_parts_equals_the_whole() -> None:
    first, second = counted(2, 1, 1), counted(3, 2, 0, "b")
    first.damage("here")
    whole = Tally.sum([first.to_dict(), second.to_dict()])

    assert (whole.read, whole.total(Outcome.KEPT), whole.total(Outcome.DROPPED), whole.total(Outcome.FAILED)) == (
        9, 5, 3, 1,
    )  # fmt: skip
    assert (whole.records("a"), whole.records("b")) == (4, 5)
    assert whole.reasons() == {"short": 3, "binary": 1}
    assert whole.text_bytes == {"a": 200, "b": 300}
    assert whole.damages == ["here"]


def test_tally_names_a_limited_number_of_damages_and_counts_all() -> None:
    tally = Tally()
    for number in range(MAXIMUM_DAMAGES + 5):
        tally.damage(str(number))
    whole = Tally.sum([tally.to_dict(), tally.to_dict()])

    assert len(whole.damages) == MAXIMUM_DAMAGES
    assert whole.damage_count == 2 * (MAXIMUM_DAMAGES + 5)


def test_tally_that_lost_a_record_is_refused() -> None:
    tally = counted(3)
    tally.read += 1

    with pytest.raises(Internal, match="4 records were read, 3 have an end"):
        judge(tally, ["a"], 0.05)


@pytest.mark.parametrize(
    ("tally", "code"),
    [
        (counted(1), None),
        (counted(), "SOURCE_EMPTY"),
        (counted(0, 5), "ALL_DOCUMENTS_FILTERED"),
        (counted(0, 0, 5), "ALL_DOCUMENTS_FAILED"),
        (counted(190, 0, 10), None),
        (counted(189, 0, 11), "TOO_MANY_FAILED"),
        (counted(2, 0, 3), None),
    ],
)
def test_judge_decides_by_counts(tally: Tally, code: str | None) -> None:
    reason = judge(tally, ["a"], 0.05)

    assert (reason and reason.code) == code


def test_rate_is_measured_over_the_last_seconds() -> None:
    window = RateWindow(window_seconds=10)
    assert window.add(0.0, 0.0) == 0.0
    assert window.add(5.0, 500.0) == 100.0
    rates = [window.add(5.0 + second, 500.0) for second in (5, 10, 11, 20)]

    assert rates[0] == 50.0
    assert rates[-1] == 0.0
