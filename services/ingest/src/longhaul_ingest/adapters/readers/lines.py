"""JSON lines, plain (by byte range) or compressed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Any

from longhaul_ingest.adapters.readers.damage import Damage, Found
from longhaul_ingest.adapters.readers.gzip_members import Broken, read_members
from longhaul_ingest.adapters.readers.streams import DAMAGE, read_chunks
from longhaul_ingest.domain.documents import Passage, Record, dropped, failed
from longhaul_ingest.domain.planning import Piece


@dataclass(frozen=True, slots=True)
class Fields:
    """Names of the fields that hold text and address."""

    text: str = "text"
    url: str = "url"


def read_json_lines(path: Path, view: mmap | bytes, piece: Piece, fields: Fields) -> Iterator[Found]:
    """The records of the lines that begin in the piece; empty lines are none."""
    name = piece.label.lower()
    if name.endswith(".gz"):
        lines = _split(_gunzip(view, piece))
    elif name.endswith((".zst", ".bz2", ".xz")):
        lines = _split(_decompress(path, piece))
    else:
        lines = _slice(view, piece)
    for found in lines:
        if isinstance(found, Damage):
            yield found
            yield failed(f"{piece.label}#{found.offset}", "damaged_archive", found.problem)
        elif found[1].strip():
            yield record_of_line(f"{piece.label}#{found[0]}", found[1], fields)


def record_of_line(label: str, line: bytes, fields: Fields) -> Record:
    """The record of one line of JSON."""
    try:
        value = json.loads(line)
    except ValueError as error:
        return failed(label, "invalid_json", str(error)[:300], line[:500].decode("utf-8", "replace"))
    if not isinstance(value, dict):
        return failed(label, "invalid_json", f"{type(value).__name__} instead of an object")
    return record_of_fields(label, value, fields)


def record_of_fields(label: str, value: dict[str, Any], fields: Fields) -> Record:
    """The record of one object or row."""
    url = value.get(fields.url)
    url = url if isinstance(url, str) and url else label
    text = value.get(fields.text)
    if text is None:
        present = ", ".join(sorted(map(str, value))[:12])
        return failed(url, "missing_text", f"no field {fields.text!r}; present: {present}")
    if not isinstance(text, str):
        return failed(url, "missing_text", f"field {fields.text!r} is {type(text).__name__}, no text")
    return Passage(url, text, _place(label)) if text else dropped(url, "empty_body", "empty text")


def _place(label: str) -> dict[str, str]:
    file, _, offset = label.rpartition("#")
    return {"file": file, "offset": offset, "record": label}


def _slice(view: mmap | bytes, piece: Piece) -> Iterator[tuple[int, bytes] | Damage]:
    position = piece.start
    if position > 0:
        before = view.find(b"\n", position - 1)
        position = before + 1 if before >= 0 else len(view)
    while position < piece.end:
        stop = view.find(b"\n", position)
        stop = stop if stop >= 0 else len(view)
        yield position, view[position:stop]
        position = stop + 1


def _split(chunks: Iterator[bytes | Damage]) -> Iterator[tuple[int, bytes] | Damage]:
    pending: list[bytes] = []  # of a line that has not ended
    number = 0
    for chunk in chunks:
        if isinstance(chunk, Damage):
            yield chunk
            pending.clear()  # a line cut by the damage
            continue
        first, *others = chunk.split(b"\n")
        pending.append(first)
        for line in others:
            yield number, b"".join(pending)
            number += 1
            pending = [line]
    if any(pending):
        yield number, b"".join(pending)


def _gunzip(view: mmap | bytes, piece: Piece) -> Iterator[bytes | Damage]:
    for found in read_members(view, 0, piece.end, lambda head: head.lstrip()[:1] == b"{"):
        if isinstance(found, Broken):
            yield Damage(piece.label, found.offset, found.problem)
        else:
            yield found.data


def _decompress(path: Path, piece: Piece) -> Iterator[bytes | Damage]:
    read = 0
    try:
        for chunk in read_chunks(path, piece.label):
            read += len(chunk)
            yield chunk
    except DAMAGE as error:
        yield Damage(piece.label, read, f"damaged compressed data after {read} bytes of text ({error})")
