"""WARC files, whole and damaged, at once and in ranges."""

from __future__ import annotations

import gzip
import zlib
from itertools import pairwise
from pathlib import Path

import pytest
from longhaul_core.recipe import SourceKind
from longhaul_ingest.adapters.readers.damage import Damage, Found
from longhaul_ingest.adapters.readers.dispatch import read_piece
from longhaul_ingest.adapters.readers.lines import Fields
from longhaul_ingest.domain.documents import Media, Outcome, Page, Refused
from longhaul_ingest.domain.planning import Piece

from tests.integration.ingest.support import CRAWL, http, page, warc_record, write_warc

URLS = [f"http://site.test/{number}" for number in range(9)]


def read(path: Path, start: int = 0, end: int | None = None, kind: SourceKind = SourceKind.WARC) -> list[Found]:
    size = path.stat().st_size
    return list(read_piece(kind, Piece(str(path), path.name, start, size if end is None else end), Fields()))


def urls(found: list[Found]) -> list[str]:
    return [item.url for item in found if not isinstance(item, Damage | Refused)]


def refusals(found: list[Found]) -> dict[str, str]:
    return {item.url: f"{item.rule} {item.detail}" for item in found if isinstance(item, Refused)}


@pytest.fixture
def crawl(tmp_path: Path) -> Path:
    return write_warc(tmp_path / "crawl.warc.gz", {url: http(page(number)) for number, url in enumerate(URLS)})


def members(path: Path) -> list[int]:
    """Offsets of the gzip members, and the file's size."""
    data, offsets = path.read_bytes(), [0]
    while offsets[-1] < len(data):
        member = zlib.decompressobj(31)
        member.decompress(data[offsets[-1] :])
        offsets.append(len(data) - len(member.unused_data))
    return offsets


def test_responses_are_judged_by_status_type_and_body(tmp_path: Path) -> None:
    path = write_warc(
        tmp_path / "a.warc.gz",
        {
            "http://a/page": http(b"<p>x</p>", content_type="text/html; charset=ISO-8859-1"),
            "http://a/text": http(b"plain", content_type="text/plain"),
            "http://a/missing": http(b"gone", "404 Not Found"),
            "http://a/moved": http(b"", "301 Moved", extra="Location: /page\r\n"),
            "http://a/image": http(b"\x89PNG", content_type="image/png"),
            "http://a/untyped": http(b"<!DOCTYPE html><p>x</p>", content_type=""),
            "http://a/nothing": http(b""),
            "http://a/zip": http(gzip.compress(b"<p>zipped</p>"), extra="Content-Encoding: gzip\r\n"),
            "http://a/zip-damaged": http(b"\x1f\x8b\x08 no gzip", extra="Content-Encoding: gzip\r\n"),
            "http://a/zip-cut": http(gzip.compress(page(1))[:-20], extra="Content-Encoding: gzip\r\n"),
            "http://a/unzipped": http(b"<p>was unzipped</p>", extra="Content-Encoding: gzip\r\n"),
            "http://a/raw": http(zlib.compress(b"<p>raw</p>")[2:-4], extra="Content-Encoding: deflate\r\n"),
            "http://a/odd": http(b"x", extra="Content-Encoding: rot13\r\n"),
            "http://a/chunks": http(b"3\r\n<p>\r\n5\r\nx</p>\r\n0\r\n\r\n", extra="Transfer-Encoding: chunked\r\n"),
            "http://a/junk": b"this is no HTTP",
        },
    )
    found = read(path)
    pages = {item.url: item for item in found if isinstance(item, Page)}

    assert pages["http://a/page"].charset == "iso-8859-1"
    assert pages["http://a/text"].media is Media.TEXT
    assert pages["http://a/untyped"].media is Media.HTML
    assert pages["http://a/zip"].body == b"<p>zipped</p>"
    assert pages["http://a/nothing"].body == b""
    assert pages["http://a/page"].extra["file"] == "a.warc.gz"
    refused = refusals(found)
    assert refused["http://a/missing"] == "http_status 404"
    assert refused["http://a/moved"] == "http_status 301"
    assert refused["http://a/image"] == "mime_type image/png"
    assert refused["http://a/junk"].startswith("invalid_http")
    assert refused["http://a/zip-damaged"].startswith("damaged_body")
    assert refused["http://a/zip-cut"].startswith("damaged_body")
    assert refused["http://a/odd"] == "damaged_body unknown content coding 'rot13'"
    assert pages["http://a/unzipped"].body == b"<p>was unzipped</p>"
    assert pages["http://a/raw"].body == b"<p>raw</p>"
    assert pages["http://a/chunks"].body == b"<p>x</p>"
    assert len(found) == 15


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_ranges_of_a_file_give_each_record_once_and_in_order(crawl: Path, count: int) -> None:
    size = crawl.stat().st_size
    bounds = [size * index // count for index in range(count + 1)]
    found = [url for start, end in pairwise(bounds) for url in urls(read(crawl, start, end))]

    assert found == URLS


@pytest.mark.parametrize("count", [1, 2, 5, 30])
def test_ranges_of_a_plain_file_give_each_record_once_and_in_order(tmp_path: Path, count: int) -> None:
    path = tmp_path / "plain.warc"
    path.write_bytes(b"".join(warc_record(url, http(page(number))) for number, url in enumerate(URLS)))
    size = path.stat().st_size
    bounds = [size * index // count for index in range(count + 1)]
    found = [url for start, end in pairwise(bounds) for url in urls(read(path, start, end))]

    assert found == URLS


@pytest.mark.parametrize("where", [12, 100, -12])
def test_member_damaged_in_the_middle_is_named_and_the_rest_is_read(crawl: Path, where: int) -> None:
    offsets, data = members(crawl), bytearray(crawl.read_bytes())
    middle = (offsets[4] if where > 0 else offsets[5]) + where
    data[middle : middle + 8] = b"\xff" * 8
    crawl.write_bytes(data)
    found = read(crawl)

    assert urls(found) == [url for url in URLS if url != URLS[4]]
    assert [damage.offset for damage in found if isinstance(damage, Damage)] == [offsets[4]]
    assert [(item.rule, item.outcome) for item in found if isinstance(item, Refused)] == [
        ("damaged_member", Outcome.FAILED)
    ]


def test_damage_in_ranges_is_found_once(crawl: Path) -> None:
    offsets, data = members(crawl), bytearray(crawl.read_bytes())
    data[offsets[4] + 60 : offsets[4] + 70] = b"\0" * 10
    crawl.write_bytes(data)
    cuts = [0, offsets[4] + 30, offsets[6] - 1, len(data)]
    found = [item for start, end in pairwise(cuts) for item in read(crawl, start, end)]

    assert urls(found) == [url for url in URLS if url != URLS[4]]
    assert sum(isinstance(item, Damage) for item in found) == 1


def test_file_cut_off_in_a_member_gives_what_is_whole(crawl: Path) -> None:
    crawl.write_bytes(crawl.read_bytes()[: members(crawl)[8] + 50])
    found = read(crawl)

    assert urls(found) == URLS[:8]
    assert [str(item).endswith("(the file ends inside it)") for item in found if isinstance(item, Damage)] == [True]


def test_whole_file_in_one_member_cut_off_gives_the_whole_records(tmp_path: Path) -> None:
    path = tmp_path / "one.warc.gz"
    whole = gzip.compress(b"".join(warc_record(url, http(page(number))) for number, url in enumerate(URLS)))
    path.write_bytes(whole)
    assert urls(read(path)) == URLS
    path.write_bytes(whole[:-60])
    found = read(path)

    assert urls(found) == URLS[: len(urls(found))]
    assert len(urls(found)) >= 5
    assert refusals(found) == {"one.warc.gz#0": "damaged_member truncated gzip member (the file ends inside it)"}


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"\x1f\x8b\x08\0", b"\0" * 1000])
def test_file_that_is_no_archive_yields_no_page_and_does_not_raise(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.warc.gz"
    path.write_bytes(content)

    assert urls(read(path)) == []


def test_wet_conversions_are_text(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.wet.gz"
    path.write_bytes(gzip.compress(warc_record("http://a/", "naïve".encode(), "conversion", "text/plain")))
    found = read(path, kind=SourceKind.WET)

    assert [(item.body, item.media) for item in found if isinstance(item, Page)] == [("naïve".encode(), Media.TEXT)]


def test_recorded_crawl_in_ranges_equals_the_crawl_at_once() -> None:
    size = CRAWL.stat().st_size
    bounds = [size * index // 19 for index in range(20)]
    parts = [item for start, end in pairwise(bounds) for item in read(CRAWL, start, end)]

    assert parts == read(CRAWL)
    assert len(parts) == 486
