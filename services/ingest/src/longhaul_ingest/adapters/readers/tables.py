"""CSV and TSV with a header, and Arrow IPC: one record a row."""

from __future__ import annotations

import codecs
import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa

from longhaul_ingest.adapters.readers.damage import Damage, Found
from longhaul_ingest.adapters.readers.lines import Fields, record_of_fields
from longhaul_ingest.adapters.readers.streams import DAMAGE, read_chunks
from longhaul_ingest.domain.documents import failed
from longhaul_ingest.domain.planning import Piece

SNIFFED: Final = "\t;|"
"""Separators other than the comma, tried on the header."""
FIELD_CHARACTERS: Final = sys.maxsize >> 32
csv.field_size_limit(FIELD_CHARACTERS)


def read_csv(path: Path, piece: Piece, fields: Fields) -> Iterator[Found]:
    """The rows of a CSV file by the names of its header; quoted line breaks belong to their field."""
    damage: list[str] = []
    lines = _lines(path, piece, damage)
    header = next(lines, None)
    if header is not None:
        separator = next((mark for mark in SNIFFED if mark in header and "," not in header), ",")
        names = next(csv.reader([header], delimiter=separator))
        row = 0
        rows = csv.reader(lines, delimiter=separator)
        while True:
            label = f"{piece.label}#{row}"
            try:
                values = next(rows)
            except StopIteration:
                break
            except csv.Error as error:
                yield failed(label, "invalid_csv", str(error)[:300])
                row += 1
                continue
            if values:
                yield record_of_fields(label, dict(zip(names, values, strict=False)), fields)
                row += 1
    for problem in damage:
        yield Damage(piece.label, 0, problem)
        yield failed(piece.label, "damaged_archive", problem[:300])


def _lines(path: Path, piece: Piece, damage: list[str]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
    rest = ""
    try:
        for chunk in read_chunks(path, piece.label):
            *whole, rest = (rest + decoder.decode(chunk)).split("\n")
            for line in whole:
                yield f"{line}\n"
    except DAMAGE as error:
        damage.append(f"damaged compressed file ({error})")
        return  # the line that was cut is no row
    rest += decoder.decode(b"", final=True)
    if rest:
        yield rest


def read_arrow(path: Path, piece: Piece, fields: Fields) -> Iterator[Found]:
    """The rows of an Arrow file or stream; a batch that cannot be read is damage."""
    row = 0
    try:
        with pa.memory_map(str(path)) as source:
            for batch in _batches(source):
                names = [name for name in (fields.text, fields.url) if name in batch.schema.names]
                for value in batch.select(names).to_pylist():
                    yield record_of_fields(f"{piece.label}#{row}", value, fields)
                    row += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        yield Damage(piece.label, 0, f"not readable from row {row} on ({error})")
        yield failed(f"{piece.label}#{row}", "damaged_archive", str(error)[:300])


def _batches(source: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    try:
        file = pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        yield from pa.ipc.open_stream(source)
        return
    for number in range(file.num_record_batches):
        yield file.get_batch(number)
