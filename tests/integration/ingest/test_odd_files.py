"""Files as they lie about: names with spaces and of no encoding, nothing in them, a million tags, one long line."""

from __future__ import annotations

import json
import os
from pathlib import Path

from longhaul.common.v1 import resource_pb2

from tests.integration.ingest.support import PROSE, Client, page, source, spec

LONG_LINE_BYTES = 100_000_000


def write_files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Folders of pages, texts and rows."""
    pages, texts, rows = (tmp_path / name for name in ("pages", "a folder of texts", "rows"))
    for folder in (pages, texts, rows):
        folder.mkdir()
    (pages / "good.html").write_bytes(page(1))
    (pages / "nested.html").write_bytes(b"<div>" * 1_000_000 + b"deep")
    (pages / "nothing.html").write_bytes(b"")
    (texts / "two words.txt").write_text("A text with a space in its name.")
    (texts / "nothing.txt").write_bytes(b"")
    (texts / os.fsdecode(b"caf\xe9.txt")).write_text("A text whose name is no UTF-8.")
    same = json.dumps({"text": PROSE.format(number=7)})
    (rows / "same.jsonl").write_text(f"{same}\n{same}\n" + json.dumps({"text": "word " * (LONG_LINE_BYTES // 5)}))
    (rows / "nothing.jsonl").write_bytes(b"")
    return pages, texts, rows


async def test_odd_files_are_read_or_counted_and_spoil_nothing(client: Client, tmp_path: Path) -> None:
    pages, texts, rows = write_files(tmp_path)
    done = await client.run(
        "odd", spec(source("pages", "HTML", pages), source("texts", "TEXT", texts), source("rows", "JSONL", rows),
                    maximum_failed_fraction=0.5)
    )  # fmt: skip
    manifest = await client.manifest("odd")
    found = await client.rows("odd")

    assert done.status.state == resource_pb2.JOB_STATE_SUCCEEDED, done.status.reason
    counts = manifest.counts
    assert counts["read"] == counts["kept"] + counts["dropped"] + counts["failed"]
    reasons = manifest.extra["drop_reasons"]
    assert reasons["nested_too_deep"] == 1
    assert {row["text"] for row in found if row["source"] == "texts"} == {
        "A text with a space in its name.", "A text whose name is no UTF-8.",
    }  # fmt: skip
    lines = [row for row in found if row["source"] == "rows"]
    assert sorted(len(row["text"]) for row in lines)[-1] == LONG_LINE_BYTES - 1
    first, second = (row for row in lines if len(row["text"]) < LONG_LINE_BYTES - 1)
    assert first["id"] == second["id"]  # of equal text; corpus keeps one
