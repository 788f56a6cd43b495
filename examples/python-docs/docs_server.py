"""A loopback web server for Debian's ``python3.11-doc`` that answers as a grown public site does.

Beside plain pages it has what a crawl meets: moved and aliased addresses, missing and failing ones, empty answers, text
in several charsets (some declared only in the header, some wrongly), compressed and chunked bodies, images, style
sheets and other non-HTML. Every header is fixed, so two recordings are equal byte for byte.
"""

from __future__ import annotations

import gzip
import mimetypes
import posixpath
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

PREFIX: Final = "/3.11/"
ALIAS: Final = "/3/"
DATE: Final = "Mon, 02 Jun 2025 08:00:00 GMT"
ROBOTS: Final = b"""User-agent: *
Disallow: /3.11/genindex
Disallow: /3.11/contents.html
Disallow: /3.11/search
Disallow: /3.11/_downloads
Disallow: /3.11/_static/jquery.js
Disallow: /3.11/_static/underscore.js
"""

MOVED: Final = {
    "/": PREFIX,
    "/3.11": PREFIX,
    "/3.11/modindex.html": "/3.11/py-modindex.html",
    "/3.11/lib/lib.html": "/3.11/library/index.html",
    "/3.11/tut/tut.html": "/3.11/tutorial/index.html",
    "/3.11/library/Queue.html": "/3.11/library/queue.html",
}
FAILING: Final = {"/3.11/bugs/report": 500, "/3.11/_static/": 403, "/3.11/account": 401}
MOVED_PAGE: Final = b"<html><body>Moved permanently.</body></html>"
FAILED_PAGE: Final = b"<html><body><h1>Sorry, this did not work.</h1></body></html>"
ALIAS_NOTE: Final = (
    b'<div class="admonition note"><p>You are reading the current 3.x documentation of Python.</p></div>'
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer: status, headers beside the fixed ones, body."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    chunked: bool = False


def respond(root: Path, target: str) -> Answer:
    """The site's answer to a GET of ``target`` (path and query)."""
    path = unquote(urlsplit(target).path)
    if path in MOVED:
        return Answer(301, {"Location": MOVED[path], "Content-Type": "text/html"}, MOVED_PAGE)
    if path in FAILING:
        return Answer(FAILING[path], {"Content-Type": "text/html"}, FAILED_PAGE)
    if path == "/robots.txt":
        return Answer(200, {"Content-Type": "text/plain"}, ROBOTS)
    if path == "/3.11/library/soon.html":
        return Answer(200, {"Content-Type": "text/html; charset=utf-8"})
    alias = path.startswith(ALIAS)
    relative = path.removeprefix(ALIAS if alias else PREFIX)
    file = _file(root, relative)
    if file is None:
        return _missing(path)
    if file.suffix != ".html":
        return _resource(file)
    body = file.read_bytes()
    if alias:
        body = body.replace(b'<div class="body" role="main">', b'<div class="body" role="main">' + ALIAS_NOTE, 1)
    return _page(file.relative_to(root).as_posix(), body)


def _file(root: Path, relative: str) -> Path | None:
    if posixpath.isabs(relative) or ".." in relative.split("/"):
        return None
    file = root / relative
    if file.is_dir():
        file = file / "index.html"
    return file if file.is_file() else None


def _missing(path: str) -> Answer:
    page = f"<html><head><title>404</title></head><body><h1>Not found</h1><p>No page {path} here.</p></body></html>"
    return Answer(404, {"Content-Type": "text/html; charset=utf-8"}, page.encode())


def _resource(file: Path) -> Answer:
    kind = "text/plain; charset=utf-8" if file.suffix == ".txt" else mimetypes.guess_type(file.name)[0]
    return Answer(200, {"Content-Type": kind or "application/octet-stream"}, file.read_bytes())


def _page(name: str, body: bytes) -> Answer:
    """An HTML page, in the charset and coding which that part of the site uses."""
    section = name.split("/", 1)[0]
    html = "text/html; charset=utf-8"
    if section == "distutils":  # an old server: Latin-1, said in the header only (the page itself claims UTF-8)
        return Answer(200, {"Content-Type": "text/html; charset=ISO-8859-1"}, _recode(body, "iso-8859-1"))
    if section == "extending":  # no charset in the header: the page's own declaration counts
        return Answer(200, {"Content-Type": "text/html"}, body)
    if section == "install":  # declared in the page only, as Windows-1252
        coded = _recode(body.replace(b'<meta charset="utf-8" />', b'<meta charset="windows-1252" />'), "cp1252")
        return Answer(200, {"Content-Type": "text/html"}, coded)
    if name == "installing/index.html":
        return Answer(200, {"Content-Type": "text/html; charset=utf-16"}, body.decode().encode("utf-16"))
    if section == "faq":  # wrongly declared: the bytes are UTF-8
        return Answer(200, {"Content-Type": "text/html; charset=us-ascii"}, body)
    if section == "tutorial":
        return Answer(200, {"Content-Type": html, "Content-Encoding": "gzip"}, gzip.compress(body, 9, mtime=0))
    return Answer(200, {"Content-Type": html}, body, chunked=section == "using")


def _recode(body: bytes, charset: str) -> bytes:
    return body.decode("utf-8").encode(charset, errors="xmlcharrefreplace")


class DocsServer(ThreadingHTTPServer):
    """Serves ``root`` on a free loopback port."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        self.root = root
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: DocsServer

    def do_GET(self) -> None:
        answer = respond(self.server.root, self.path)
        self.send_response_only(answer.status)
        self.send_header("Date", DATE)
        self.send_header("Server", "docs/1.0")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        framing = ("Transfer-Encoding", "chunked") if answer.chunked else ("Content-Length", str(len(answer.body)))
        self.send_header(*framing)
        self.end_headers()
        self.wfile.write(_chunks(answer.body) if answer.chunked else answer.body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: the recorder prints what it fetches."""


def _chunks(body: bytes, size: int = 16384) -> bytes:
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
