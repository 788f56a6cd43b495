"""JSON lines, Parquet and single files, whole and damaged."""

from __future__ import annotations

import gzip
import json
import os
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from longhaul_core.errors import FailedPrecondition, NotFound
from longhaul_core.recipe import SourceConfig, SourceKind
from longhaul_ingest.adapters.inventory import list_files
from longhaul_ingest.adapters.readers.damage import Damage, Found
from longhaul_ingest.adapters.readers.dispatch import read_piece
from longhaul_ingest.adapters.readers.lines import Fields
from longhaul_ingest.domain.documents import Page, Passage, Refused
from longhaul_ingest.domain.planning import Piece, plan_shards

ROWS = [{"text": f"document {number}", "url": f"http://a/{number}"} for number in range(50)]


def read(path: Path, kind: SourceKind, start: int = 0, end: int | None = None, text: str = "text") -> list[Found]:
    piece = Piece(str(path), path.name, start, path.stat().st_size if end is None else end)
    return list(read_piece(kind, piece, Fields(text)))


def texts(found: list[Found]) -> list[str]:
    return [item.text for item in found if isinstance(item, Passage)]


def rules(found: list[Found]) -> list[str]:
    return [item.rule for item in found if isinstance(item, Refused)]


def lines() -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_json_lines_in_ranges_are_read_once_and_in_order(tmp_path: Path, count: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines().rstrip(b"\n"))
    size = path.stat().st_size
    bounds = [size * index // count for index in range(count + 1)]
    found = [item for a, b in pairwise(bounds) for item in read(path, SourceKind.JSONL, a, b)]

    assert texts(found) == [row["text"] for row in ROWS]


@pytest.mark.parametrize(
    ("name", "compress"), [("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstandard.ZstdCompressor().compress)]
)
def test_json_lines_compressed_whole_and_cut_off(tmp_path: Path, name: str, compress: object) -> None:
    path = tmp_path / name
    path.write_bytes(compress(lines()))  # type: ignore[operator]
    assert texts(read(path, SourceKind.JSONL)) == [row["text"] for row in ROWS]
    path.write_bytes(path.read_bytes()[:-40])
    found = read(path, SourceKind.JSONL)

    assert rules(found) == ["damaged_archive"]
    assert texts(found) == [row["text"] for row in ROWS[: len(texts(found))]]
    assert sum(isinstance(item, Damage) for item in found) == 1


def test_json_lines_damaged_gzip_member_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    members = [gzip.compress(json.dumps(row).encode() + b"\n") for row in ROWS]
    members[7] = members[7][:20] + b"\xff" * 10 + members[7][30:]
    path.write_bytes(b"".join(members))
    found = read(path, SourceKind.JSONL)

    assert texts(found) == [row["text"] for number, row in enumerate(ROWS) if number != 7]
    assert rules(found) == ["damaged_archive"]


def test_json_lines_bad_lines_fail_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"text": "good"}\n{"text": \n[1]\n{"txt": "x"}\n{"text": 5}\n{"text": ""}\n\n  \n{"text": "\xff"}\r\n'
        b'{"text": "last", "url": 3}'
    )
    found = read(path, SourceKind.JSONL)

    assert texts(found) == ["good", "last"]
    assert rules(found) == [
        "invalid_json", "invalid_json", "missing_text", "missing_text", "empty_body", "invalid_json",
    ]  # fmt: skip
    details = [item.detail for item in found if isinstance(item, Refused)]
    assert details[2] == "no field 'text'; present: txt"


@pytest.mark.parametrize("count", [1, 2, 9])
def test_parquet_row_groups_in_ranges_are_read_once(tmp_path: Path, count: int) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=7)
    size = path.stat().st_size
    bounds = [size * index // count for index in range(count + 1)]
    found = [item for a, b in pairwise(bounds) for item in read(path, SourceKind.PARQUET, a, b)]

    assert texts(found) == [row["text"] for row in ROWS]
    assert [item.url for item in found if isinstance(item, Passage)] == [row["url"] for row in ROWS]


def test_parquet_without_text_column_fails_each_row_and_names_the_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    found = read(path, SourceKind.PARQUET, text="body")

    assert rules(found) == ["missing_text"] * 50
    assert isinstance(found[0], Refused)
    assert found[0].detail == "no column 'body'; present: text, url"


def test_parquet_damaged_row_group_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=10, compression="zstd")
    second = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = second.dictionary_page_offset or second.data_page_offset
    data[start : start + second.total_compressed_size] = b"\xff" * second.total_compressed_size
    path.write_bytes(data)
    found = read(path, SourceKind.PARQUET)

    assert texts(found) == [row["text"] for number, row in enumerate(ROWS) if number // 10 != 1]
    assert rules(found) == ["damaged_archive"]


def test_parquet_file_that_is_none_is_one_failure(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 not really")

    assert rules(read(path, SourceKind.PARQUET)) == ["damaged_archive"]


def test_folder_with_nasty_names_is_listed_in_order_of_bytes_and_read(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "texts")
    names = [b"a b.txt", b"caf\xe9.txt", b"caf\xc3\xa9.txt", b"line\nend.txt", b"%41.txt", b"sub/deep.md", b"skip.bin"]
    for name in names:
        path = os.path.join(folder, name)  # noqa: PTH118  bytes
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(b"text of " + name)
    source = SourceConfig(name="t", kind=SourceKind.TEXT, path=str(tmp_path / "texts"))
    [shard] = plan_shards([("t", source.kind, list_files(source))])
    bodies = [
        item.body
        for piece in shard.pieces
        for item in read_piece(source.kind, piece, Fields())
        if isinstance(item, Page)
    ]

    assert bodies == [b"text of " + name for name in sorted(names) if name != b"skip.bin"]
    json.dumps([piece.to_list() for piece in shard.pieces], ensure_ascii=False).encode("utf-8")


def test_code_tree_is_read_with_languages_and_without_hidden_folders(tmp_path: Path) -> None:
    for name in ("src/main.py", "src/lib.rs", ".git/hooks.py", "node_modules/x.js", "README"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")
    source = SourceConfig(name="c", kind=SourceKind.CODE, path=str(tmp_path))
    [shard] = plan_shards([("c", source.kind, list_files(source))])
    pages = [item for piece in shard.pieces for item in read_piece(source.kind, piece, Fields())]

    assert [(page.url, page.extra["programming_language"]) for page in pages if isinstance(page, Page)] == [
        ("src/lib.rs", "rust"),
        ("src/main.py", "python"),
    ]


def test_compressed_text_file_whole_and_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"words"))
    [found] = read(path, SourceKind.TEXT)
    assert isinstance(found, Page)
    assert found.body == b"words"
    path.write_bytes(path.read_bytes()[:-9])

    assert rules(read(path, SourceKind.TEXT)) == ["damaged_archive"]


def test_file_gone_or_changed_since_the_plan_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    modified = path.stat().st_mtime_ns
    piece = Piece(str(path), "a.txt", 0, 6, str(modified))
    os.utime(path, ns=(0, modified + 1))
    with pytest.raises(FailedPrecondition, match="was changed"):
        list(read_piece(SourceKind.TEXT, piece, Fields()))
    path.unlink()
    with pytest.raises(NotFound, match="is gone"):
        list(read_piece(SourceKind.TEXT, piece, Fields()))


@pytest.mark.parametrize(
    ("location", "reason"),
    [("nowhere", "SOURCE_NOT_FOUND"), ("*.warc", "SOURCE_NOT_FOUND"), ("empty", "SOURCE_EMPTY")],
)
def test_source_missing_or_empty_is_named(tmp_path: Path, location: str, reason: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/picture.png").write_bytes(b"\x89PNG")
    source = SourceConfig(name="web", kind=SourceKind.HTML, path=str(tmp_path / location))

    with pytest.raises((NotFound, FailedPrecondition)) as raised:
        list_files(source)
    assert raised.value.reason == reason
    assert raised.value.metadata == {"source": "web", "path": str(tmp_path / location)}
    assert raised.value.action


def test_glob_and_file_overlapping_gives_each_file_once(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).write_text("{}")
    paths = [str(tmp_path / "*.jsonl"), str(tmp_path / "a.jsonl")]
    source = SourceConfig(name="j", kind=SourceKind.JSONL, path=paths)

    assert [file.label for file in list_files(source)] == ["a.jsonl", "b.jsonl"]
