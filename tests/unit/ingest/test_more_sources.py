"""CSV, Arrow, Markdown, EPUB, PDF, code with a licence, other compressions, lists, and files on the web."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pytest
from longhaul_core.errors import FailedPrecondition, NotFound, Unavailable
from longhaul_core.recipe import SourceConfig, SourceKind
from longhaul_ingest.adapters import web
from longhaul_ingest.adapters.inventory import list_files
from longhaul_ingest.adapters.readers.damage import Damage
from longhaul_ingest.adapters.readers.dispatch import read_piece
from longhaul_ingest.adapters.readers.lines import Fields
from longhaul_ingest.domain.documents import Document, Page, Refused
from longhaul_ingest.domain.pipeline import Pipeline
from longhaul_ingest.domain.planning import Piece

from tests.integration.ingest.support import CRAWL
from tests.unit.ingest.test_readers import lines, read, rules, texts

PIPELINE = Pipeline(lambda html: html, ())


def documents(path: Path, kind: SourceKind) -> list[Document | Refused]:
    return [PIPELINE.decide(found) for found in read(path, kind) if not isinstance(found, Damage)]


def test_csv_rows_by_header_with_breaks_inside_quotes(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('\ufeffurl,text,n\nhttp://a/1,"one, with\na break",1\n\nhttp://a/2,two,2\n')
    assert texts(read(path, SourceKind.CSV)) == ["one, with\na break", "two"]
    (tmp_path / "b.tsv").write_text("text\turl\nthree\thttp://a/3\n")
    assert texts(read(tmp_path / "b.tsv", SourceKind.CSV)) == ["three"]
    assert rules(read(path, SourceKind.CSV, text="body")) == ["missing_text", "missing_text"]


def test_csv_cut_off_is_read_up_to_the_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.xz"
    whole = lzma.compress(("text\n" + "".join(f"row {n} {n * n}\n" for n in range(90_000))).encode())
    path.write_bytes(whole[: len(whole) - 2000])
    found = read(path, SourceKind.CSV)

    assert rules(found) == ["damaged_archive"]
    assert texts(found)[:2] == ["row 0 0", "row 1 1"]
    assert any(isinstance(item, Damage) for item in found)


@pytest.mark.parametrize("stream", [False, True])
def test_arrow_rows(tmp_path: Path, stream: bool) -> None:
    table = pa.table({"text": ["one", "two", None], "url": ["http://a/1", "http://a/2", "http://a/3"]})
    path = tmp_path / "a.arrow"
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(str(path), table.schema) as writer:
        writer.write_table(table)

    assert texts(read(path, SourceKind.ARROW)) == ["one", "two"]
    assert rules(read(path, SourceKind.ARROW)) == ["missing_text"]
    path.write_bytes(path.read_bytes()[:40])
    assert rules(read(path, SourceKind.ARROW)) == ["damaged_archive"]


def test_markdown_keeps_tables_code_and_mathematics(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    body = "# Title\n\n| a | b |\n|---|---|\n\n```py\nx = 1\n```\n\n$e = mc^2$"
    path.write_text(f"---\ntitle: 'On boats'\n---\n{body}\n<!-- hidden -->\n")
    found = documents(path, SourceKind.MARKDOWN)[0]

    assert isinstance(found, Document)
    assert found.text == body
    assert found.extra["title"] == "On boats"


CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
    '<rootfiles><rootfile full-path="O/c.opf"/></rootfiles></container>'
)
PACKAGE = (
    '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
    "<dc:title>The Sea</dc:title></metadata><manifest>{items}</manifest><spine>{spine}</spine></package>"
)


def epub(chapters: list[str]) -> bytes:
    """A book whose spine has the chapters in reverse."""
    buffer = io.BytesIO()
    numbers = range(len(chapters))
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("META-INF/container.xml", CONTAINER)
        items = "".join(f'<item id="c{n}" href="c{n}.xhtml" media-type="application/xhtml+xml"/>' for n in numbers)
        spine = "".join(f'<itemref idref="c{n}"/>' for n in reversed(numbers))
        archive.writestr("O/c.opf", PACKAGE.format(items=items, spine=spine))
        for number, text in enumerate(chapters):
            archive.writestr(f"O/c{number}.xhtml", f"<html><body><p>{text}</p></body></html>")
    return buffer.getvalue()


def test_epub_is_one_document_in_reading_order(tmp_path: Path) -> None:
    path = tmp_path / "a book.epub"
    path.write_bytes(epub(["last", "first"]))
    found = documents(path, SourceKind.EPUB)[0]

    assert isinstance(found, Document)
    assert (found.text, found.extra["title"]) == ("first\n\nlast", "The Sea")
    path.write_bytes(path.read_bytes()[:200])
    assert [item.rule for item in documents(path, SourceKind.EPUB) if isinstance(item, Refused)] == ["damaged_book"]


def pdf(text: str) -> bytes:
    """The smallest PDF with one line of text."""
    stream = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET".encode()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>/MediaBox[0 0 612 792]>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]  # fmt: skip
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    end = b"trailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % len(out)
    return out + b"xref\n0 6\n0000000000 65535 f \n" + table + end


def test_pdf_with_a_text_layer_without_one_and_broken(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf("A line of text"))
    found = documents(path, SourceKind.PDF)[0]
    assert isinstance(found, Document)
    assert (found.text, found.extra["pages"]) == ("A line of text", "1")
    for body, rule in ((pdf(""), "empty_extraction"), (b"%PDF-1.4 nothing", "damaged_book")):
        path.write_bytes(body)
        refused = documents(path, SourceKind.PDF)[0]
        assert isinstance(refused, Refused)
        assert refused.rule == rule


@pytest.mark.parametrize(
    ("head", "licence"),
    [
        ("# SPDX-License-Identifier: GPL-2.0-only\n", "GPL-2.0-only"),
        ("// Licensed under the Apache License,\n// Version 2.0 (the ...)\n", "Apache-2.0"),
        ("/* Permission is hereby granted, free\n * of charge, to any */", "MIT"),
        ("print(1)", None),
    ],
)
def test_code_says_its_licence(tmp_path: Path, head: str, licence: str | None) -> None:
    path = tmp_path / "a.py"
    path.write_text(f"{head}x = 1\n")
    found = documents(path, SourceKind.CODE)[0]

    assert isinstance(found, Document)
    assert found.extra.get("licence") == licence


@pytest.mark.parametrize(("ending", "compress"), [("bz2", bz2.compress), ("xz", lzma.compress)])
def test_other_compressions_whole_and_cut(tmp_path: Path, ending: str, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"a.jsonl.{ending}"
    path.write_bytes(compress(lines()) + compress(lines()))
    assert len(texts(read(path, SourceKind.JSONL))) == 100
    path.write_bytes(compress(lines())[:-20])
    assert "damaged_archive" in rules(read(path, SourceKind.JSONL))
    page = tmp_path / f"a.txt.{ending}"
    page.write_bytes(compress(b"some text"))
    assert [item.body for item in read(page, SourceKind.TEXT) if isinstance(item, Page)] == [b"some text"]


def test_archive_compressed_as_a_whole_gives_what_its_members_give(tmp_path: Path) -> None:
    unpacked = gzip.decompress(CRAWL.read_bytes())
    path = tmp_path / "crawl.warc.xz"
    path.write_bytes(lzma.compress(unpacked, preset=0))
    expected = [item.url for item in read(CRAWL, SourceKind.WARC) if not isinstance(item, Damage)]

    assert [item.url for item in read(path, SourceKind.WARC) if not isinstance(item, Damage)] == expected
    path.write_bytes(path.read_bytes()[:-30_000])
    cut = read(path, SourceKind.WARC)
    urls = [item.url for item in cut if isinstance(item, Page)]
    assert len(urls) > 100
    assert urls == [item.url for item in read(CRAWL, SourceKind.WARC) if isinstance(item, Page)][: len(urls)]
    assert rules(cut)[-1] == "damaged_archive"


class Faulty(BaseHTTPRequestHandler):
    """Serves one body; what goes wrong first is in `faults` of the server."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        server = self.server
        assert isinstance(server, FaultyServer)
        if self.path != "/a.jsonl":
            self.send_error(404)
            return
        fault = server.faults.pop(0) if server.faults and with_body else ""
        if fault == "503":
            server.fired.append(fault)
            self.send_error(503)
            return
        begin = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        body = server.body[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("ETag", server.tag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            if fault == "cut":
                server.fired.append(fault)
                self.wfile.write(body[: len(body) // 2])
                self.close_connection = True
                return
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class FaultyServer(ThreadingHTTPServer):
    def __init__(self, body: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Faulty)
        self.body, self.tag = body, '"v1"'
        self.faults: list[str] = []
        self.fired: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    monkeypatch.setattr(web, "FIRST_DELAY_SECONDS", 0.01)
    with FaultyServer(lines()) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("faults", [[], ["503", "503"], ["cut"], ["cut", "503", "cut"]])
def test_file_on_the_web_is_read_whole_through_faults(server: FaultyServer, tmp_path: Path, faults: list[str]) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("# files\na.jsonl\n")
    source = SourceConfig(name="web", kind=SourceKind.JSONL, lists=[str(listing)], list_base=f"{server.url}/")
    (file,) = list_files(source)
    server.faults = list(faults)
    found = list(read_piece(SourceKind.JSONL, Piece(file.path, file.label, 0, file.size, file.version), Fields()))

    assert (file.size, file.label, file.version) == (len(server.body), "a.jsonl", '"v1"')
    assert len(texts(found)) == 50
    assert server.fired == faults


def test_file_on_the_web_that_changes_is_gone_or_never_comes(server: FaultyServer, tmp_path: Path) -> None:
    url = f"{server.url}/a.jsonl"
    server.tag = '"v2"'
    with pytest.raises(FailedPrecondition, match="was changed"):
        web.download(url, '"v1"', tmp_path / "a")
    with pytest.raises(NotFound, match="is not there"):
        web.describe(f"{server.url}/b.jsonl")
    server.faults = ["cut"] * 50
    with pytest.raises(Unavailable, match="cut the connection"):
        web.download(url, "", tmp_path / "a")
