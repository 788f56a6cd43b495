"""Records the demo's crawl: ``python examples/python-docs/record.py [--root DIR] [--out FILE]``.

Serves Debian's ``python3.11-doc`` on loopback (``docs_server``), follows its links breadth first from ``seeds.txt``,
honours ``robots.txt``, and writes each exchange as a WARC request and response, one gzip member a record. Order, dates
and record ids follow from the addresses alone, so recording again gives the same file.
"""

from __future__ import annotations

import argparse
import re
import socket
import sys
import threading
import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Final
from urllib.parse import urldefrag, urljoin, urlsplit
from urllib.robotparser import RobotFileParser

from docs_server import DATE, PREFIX, DocsServer, respond
from warcio.recordloader import ArcWarcRecord
from warcio.warcwriter import WARCWriter

HOST: Final = "python-docs.test"  # a reserved name: the recording can be mistaken for no real site
AGENT: Final = "longhaul-recorder/1.0"
START: Final = datetime(2025, 6, 2, 8, 0, 0, tzinfo=UTC)
MAX_BODY_BYTES: Final = 180_000
MAX_FILE_BYTES: Final = 5_000_000
LINK: Final = re.compile(r"""(?:href|src)=["']([^"'<>]+)["']""")

SEEDS: Final = Path(__file__).with_name("seeds.txt")


@dataclass(frozen=True, slots=True)
class Exchange:
    """What went over the wire for one address."""

    url: str
    request: bytes
    response: bytes


def fetch(address: tuple[str, int], url: str) -> Exchange:
    """Sends one GET and keeps both sides' bytes exactly as they travelled."""
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    lines = (
        f"GET {target} HTTP/1.1",
        f"Host: {HOST}",
        f"User-Agent: {AGENT}",
        "Accept: */*",
        "Connection: close",
        "",
        "",
    )
    request = "\r\n".join(lines).encode()
    received = bytearray()
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(request)
        while block := connection.recv(1 << 16):
            received += block
    return Exchange(url, request, bytes(received))


def links(base: str, html: bytes) -> Iterator[str]:
    """Addresses of the same site that a page names, in page order."""
    for found in LINK.findall(html.decode("utf-8", errors="replace")):
        url = urldefrag(urljoin(base, found.strip())).url
        if urlsplit(url).netloc == HOST:
            yield url


def crawl(server: DocsServer, root: Path) -> Iterator[Exchange]:
    """Breadth first from the seeds; pages beyond the size limit and those robots.txt forbids are left out."""
    robots = RobotFileParser()
    robots.parse(respond(root, "/robots.txt").body.decode().splitlines())
    queue = deque(f"http://{HOST}{path}" for path in SEEDS.read_text().split())
    seen = set(queue)
    while queue:
        url = queue.popleft()
        parts = urlsplit(url)
        answer = respond(root, parts.path)
        if not robots.can_fetch(AGENT, url) or len(answer.body) > MAX_BODY_BYTES:
            continue
        yield fetch(("127.0.0.1", server.server_port), url)
        new = [urljoin(url, answer.headers["Location"])] if answer.status == 301 else []
        if (
            answer.headers.get("Content-Type", "").startswith("text/html")
            and parts.path.startswith(PREFIX)
            and not parts.query
        ):
            page = root / parts.path.removeprefix(PREFIX)
            new += links(url, page.read_bytes()) if page.is_file() else links(url, answer.body)
        for found in new:
            if found not in seen:
                seen.add(found)
                queue.append(found)


def write(exchanges: Iterator[Exchange], file: BytesIO) -> int:
    """Writes the exchanges as WARC 1.0 and returns how many there were."""
    writer = WARCWriter(file, gzip=True, warc_version="1.0")
    about = {
        "software": AGENT,
        "format": "WARC File Format 1.0",
        "description": "Python 3.11 documentation, Debian python3.11-doc",
    }
    fields = "".join(f"{name}: {value}\r\n" for name, value in about.items()).encode()
    writer.write_record(_record(writer, "warcinfo", "urn:warcinfo", START, fields, "application/warc-fields"))
    count = 0
    for count, exchange in enumerate(exchanges, start=1):
        at = START + timedelta(seconds=count)
        response = _record(
            writer, "response", exchange.url, at, exchange.response, "application/http; msgtype=response"
        )
        request = _record(writer, "request", exchange.url, at, exchange.request, "application/http; msgtype=request")
        request.rec_headers.add_header("WARC-Concurrent-To", response.rec_headers.get_header("WARC-Record-ID"))
        writer.write_record(request)
        writer.write_record(response)
    return count


def _record(writer: WARCWriter, kind: str, url: str, at: datetime, block: bytes, content_type: str) -> ArcWarcRecord:
    date = at.strftime("%Y-%m-%dT%H:%M:%SZ")
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"{kind} {url} {date}")
    return writer.create_warc_record(
        "" if kind == "warcinfo" else url,
        kind,
        payload=BytesIO(block),
        length=len(block),
        warc_content_type=content_type,
        warc_headers_dict={"WARC-Record-ID": f"<urn:uuid:{identity}>", "WARC-Date": date},
    )


def main() -> int:
    """Records the crawl and says what it holds."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--root", type=Path, default=Path("/usr/share/doc/python3.11/html"), help="folder of python3.11-doc"
    )
    parser.add_argument("--out", type=Path, default=here / "python-docs.warc.gz")
    options = parser.parse_args()
    if not (options.root / "index.html").is_file():
        print(f"no documentation at {options.root}: install python3.11-doc or give --root", file=sys.stderr)
        return 1
    file = BytesIO()
    with DocsServer(options.root.resolve()) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        count = write(crawl(server, options.root.resolve()), file)
        server.shutdown()
    if file.tell() > MAX_FILE_BYTES:
        print(
            f"the recording has {file.tell()} bytes, more than {MAX_FILE_BYTES}: lower MAX_BODY_BYTES", file=sys.stderr
        )
        return 1
    options.out.write_bytes(file.getvalue())
    print(f"{options.out}: {count} exchanges of {HOST}, {file.tell()} bytes, server date {DATE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
