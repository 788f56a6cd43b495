"""What every object store promises."""

import gzip
import io
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from longhaul_core.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from longhaul_core.objects import ObjectStore

LARGE = 12 << 20  # three parts of the contract's S3 stores
BAD_KEYS = [
    *("", "/etc/passwd", "../up", "a/../../b", "a//b", "a/", "a/./b", ".hidden", "a/.tmp/b", "a\\b", "a\0b"),
    *("x" * 300, "y/" * 600 + "z", "\ud800"),
]


def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return [info.key for info in store.list(prefix)]


def write_and_break(sink: Any, data: str | bytes) -> None:
    with sink:
        sink.write(data)
        raise ZeroDivisionError


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 5000])
def test_put_then_get_returns_the_bytes(store: ObjectStore, data: bytes) -> None:
    info = store.put("a/b/c.bin", data)
    assert (info.key, info.size) == ("a/b/c.bin", len(data))
    assert store.get("a/b/c.bin") == data


def test_put_of_a_memoryview_returns_the_bytes(store: ObjectStore) -> None:
    store.put("view", memoryview(bytearray(b"0123456789"))[2:5])
    assert store.get("view") == b"234"


def test_put_again_replaces_and_changes_the_etag(store: ObjectStore) -> None:
    first = store.put("k", b"one")
    second = store.put("k", b"other")
    assert store.get("k") == b"other"
    assert first.etag != second.etag
    assert store.stat("k") == second


def test_stat_of_a_new_object_tells_size_and_time(store: ObjectStore) -> None:
    store.put("k", b"12345")
    info = store.stat("k")
    assert info.size == 5
    assert abs(info.modified - datetime.now(UTC)) < timedelta(minutes=1)


def test_reading_a_missing_object_raises_not_found(store: ObjectStore) -> None:
    store.put("there/is", b"one")
    for read in (store.get, store.stat, store.open_read):
        for key in ("no/such", "there"):
            with pytest.raises(NotFound) as caught:
                read(key)
            assert caught.value.reason == "OBJECT_NOT_FOUND"
            assert caught.value.metadata["key"] == key
    with pytest.raises(NotFound):
        store.get_range("no/such", 0, 1)
    with pytest.raises(NotFound):
        store.read_into("no/such", 0, memoryview(bytearray(1)))
    assert not store.exists("no/such")
    assert not store.exists("there")
    assert store.exists("there/is")


@pytest.mark.parametrize(("offset", "length", "expected"), [(0, 3, b"012"), (7, 2, b"78"), (8, 9, b"89"), (3, 0, b"")])
def test_get_range_returns_what_lies_in_it(store: ObjectStore, offset: int, length: int, expected: bytes) -> None:
    store.put("k", b"0123456789")
    assert store.get_range("k", offset, length) == expected


def test_get_range_past_the_end_returns_nothing(store: ObjectStore) -> None:
    store.put("k", b"0123456789")
    assert store.get_range("k", 10, 5) == b""
    assert store.get_range("k", 99, 5) == b""


@pytest.mark.parametrize(("offset", "length", "expected"), [(0, 3, b"012"), (7, 2, b"78"), (8, 9, b"89"), (12, 3, b"")])
def test_read_into_fills_the_buffer_and_leaves_the_rest(
    store: ObjectStore, offset: int, length: int, expected: bytes
) -> None:
    store.put("k", b"0123456789")
    buffer = bytearray(b"." * length)
    assert store.read_into("k", offset, memoryview(buffer)) == len(expected)
    assert buffer == expected + b"." * (length - len(expected))


def test_open_read_seeks_and_reads(store: ObjectStore) -> None:
    store.put("k", bytes(range(200)))
    with store.open_read("k") as source:
        assert source.read(2) == bytes([0, 1])
        assert source.seek(-3, io.SEEK_END) == 197
        assert source.read() == bytes([197, 198, 199])
        assert source.read() == b""
        source.seek(100)
        assert source.tell() == 100
        assert source.read(1) == bytes([100])


def test_open_write_of_many_parts_appears_whole_at_the_end(store: ObjectStore) -> None:
    block = bytes(range(256)) * 1024
    with store.open_write("big/one") as out:
        for _ in range(LARGE // len(block)):
            assert out.write(block) == len(block)
        assert out.tell() == LARGE
        assert keys(store) == []
    assert out.commit() == store.stat("big/one")
    assert store.get("big/one") == block * (LARGE // len(block))


def test_open_write_that_raises_leaves_nothing(store: ObjectStore) -> None:
    store.put("kept", b"old")
    for key, size in (("kept", 10), ("small", 10), ("large", LARGE)):
        with pytest.raises(ZeroDivisionError):
            write_and_break(store.open_write(key), bytes(size))
    assert keys(store) == ["kept"]
    assert store.get("kept") == b"old"


def test_open_write_closed_by_a_wrapper_publishes_only_when_the_block_ends_well(store: ObjectStore) -> None:
    with pytest.raises(ZeroDivisionError), store.open_write("half") as out:
        write_and_break(io.TextIOWrapper(out), "half")
    assert keys(store) == []
    with store.open_write("text.gz") as out, gzip.open(out, "wt") as compressed:
        compressed.write("whole")
    assert gzip.decompress(store.get("text.gz")) == b"whole"


def test_parquet_is_written_and_read_through_the_streams(store: ObjectStore) -> None:
    table = pa.table({"id": list(range(1000)), "text": ["x" * (n % 90) for n in range(1000)]})
    with store.open_write("t.parquet") as out:
        pq.write_table(table, out)
    with store.open_read("t.parquet") as source:
        assert pq.read_table(source).equals(table)


def test_put_file_copies_the_file(store: ObjectStore, tmp_path: Path) -> None:
    for name, size in (("empty", 0), ("small", 1000), ("large", LARGE + 1)):
        path = tmp_path / name
        path.write_bytes(bytes(size))
        assert store.put_file(f"files/{name}", path).size == size
        assert store.stat(f"files/{name}").size == size
    assert keys(store, "files/") == ["files/empty", "files/large", "files/small"]


def test_put_file_of_a_missing_file_says_which(store: ObjectStore, tmp_path: Path) -> None:
    for if_absent in (False, store.conditional_writes):
        with pytest.raises(FailedPrecondition) as caught:
            store.put_file("k", tmp_path / "missing", if_absent=if_absent)
        assert caught.value.reason == "PATH_UNUSABLE"
        assert caught.value.metadata["path"] == str(tmp_path / "missing")
    assert keys(store) == []


def test_list_goes_in_order_of_keys_and_takes_any_prefix(store: ObjectStore) -> None:
    names = ["a-b/1", "a/1", "a/2/x", "a/2/y", "a.txt", "ab", "b/ü", "b/z", "b/ 1"]
    for name in names:
        store.put(name, b"1")
    assert keys(store) == sorted(names, key=str.encode)
    assert keys(store, "a") == sorted((n for n in names if n.startswith("a")), key=str.encode)
    assert keys(store, "a/") == ["a/1", "a/2/x", "a/2/y"]
    assert keys(store, "a/2") == ["a/2/x", "a/2/y"]
    assert keys(store, "a/2/x") == ["a/2/x"]
    assert keys(store, "c") == keys(store, "a/1/") == []


def test_delete_removes_one_and_is_repeatable(store: ObjectStore) -> None:
    store.put("a/1", b"")
    store.put("a/2", b"")
    store.delete("a/1")
    store.delete("a/1")
    store.delete("never/was")
    assert keys(store) == ["a/2"]


def test_delete_prefix_spares_other_keys(store: ObjectStore) -> None:
    for name in ("a/1", "a/2/3", "ab/1", "b"):
        store.put(name, b"")
    assert store.delete_prefix("a/") == 2
    assert store.delete_prefix("a/") == 0
    assert keys(store) == ["ab/1", "b"]
    with pytest.raises(InvalidArgument):
        store.delete_prefix("")


def test_a_key_that_could_leave_the_store_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"1")
    acts = [store.get, store.stat, store.exists, store.delete, store.open_read, store.open_write, store.local_path]
    acts += [lambda key: store.put(key, b""), lambda key: store.put_file(key, source)]
    for key, act in itertools.product(BAD_KEYS, acts):
        with pytest.raises(InvalidArgument) as caught:
            act(key)
        assert caught.value.reason == "INVALID_OBJECT_KEY"
        assert [field for field, _ in caught.value.violations] == ["key"]
    assert keys(store) == []


def test_local_path_is_a_readable_file_or_none(store: ObjectStore) -> None:
    store.put("k", b"mapped")
    path = store.local_path("k")
    assert path is None or path.read_bytes() == b"mapped"


def test_many_writers_of_one_key_leave_one_whole_object(store: ObjectStore) -> None:
    values = [bytes([n]) * 200_000 for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda value: store.put("k", value), values))
    assert store.get("k") in values


def test_conditional_create_has_one_winner(conditional_store: ObjectStore) -> None:
    store = conditional_store
    values = [bytes([n]) * 1000 for n in range(8)]
    barrier = threading.Barrier(len(values))
    won: list[bytes] = []
    lost: list[AlreadyExists] = []

    def create(value: bytes) -> None:
        barrier.wait()
        try:
            store.put("k", value, if_absent=True)
            won.append(value)
        except AlreadyExists as error:
            lost.append(error)

    with ThreadPoolExecutor(len(values)) as pool:
        list(pool.map(create, values))
    assert store.conditional_writes
    assert [store.get("k")] == won
    assert [error.reason for error in lost] == ["OBJECT_EXISTS"] * 7


def test_conditional_create_of_a_file_respects_what_is_there(conditional_store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"file")
    conditional_store.put("k", b"old")
    with pytest.raises(AlreadyExists):
        conditional_store.put_file("k", source, if_absent=True)
    assert conditional_store.get("k") == b"old"
    conditional_store.delete("k")
    conditional_store.put_file("k", source, if_absent=True)
    assert conditional_store.get("k") == b"file"


def test_conditional_create_where_the_store_ignores_conditions_is_refused(
    unconditional_store: ObjectStore, tmp_path: Path
) -> None:
    store = unconditional_store
    source = tmp_path / "source"
    source.write_bytes(b"file")
    assert not store.conditional_writes
    with pytest.raises(FailedPrecondition) as refused:
        store.put("k", b"", if_absent=True)
    assert refused.value.reason == "NO_CONDITIONAL_WRITES"
    with pytest.raises(FailedPrecondition) as refused:
        store.put_file("k", source, if_absent=True)
    assert refused.value.reason == "NO_CONDITIONAL_WRITES"
    assert not store.exists("k")
