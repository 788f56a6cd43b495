"""Parquet: the rows of the row groups that begin in a byte range."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from longhaul_ingest.adapters.readers.damage import Damage, Found
from longhaul_ingest.adapters.readers.lines import Fields, record_of_fields
from longhaul_ingest.domain.documents import failed
from longhaul_ingest.domain.planning import Piece

ROWS_AT_ONCE = 1024


def read_parquet(path: Path, piece: Piece, fields: Fields) -> Iterator[Found]:
    """The rows of the piece; a row group that cannot be read is damage, the others are read."""
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        if piece.start == 0:
            yield Damage(piece.label, 0, f"not a readable Parquet file ({error})")
            yield failed(piece.label, "damaged_archive", str(error)[:300])
        return
    with file:
        names = [name for name in (fields.text, fields.url) if name in file.schema_arrow.names]
        for group in range(file.num_row_groups):
            if piece.start <= _offset(file, group) < piece.end:
                yield from _read_group(file, group, names, piece, fields)


def _offset(file: pq.ParquetFile, group: int) -> int:
    column = file.metadata.row_group(group).column(0)
    offsets = (column.dictionary_page_offset, column.data_page_offset)
    return int(min(offset for offset in offsets if offset is not None))


def _read_group(file: pq.ParquetFile, group: int, names: list[str], piece: Piece, fields: Fields) -> Iterator[Found]:
    row = sum(file.metadata.row_group(before).num_rows for before in range(group))
    rows = file.metadata.row_group(group).num_rows
    if fields.text not in names:
        present = ", ".join(file.schema_arrow.names[:12])
        for index in range(row, row + rows):
            yield failed(f"{piece.label}#{index}", "missing_text", f"no column {fields.text!r}; present: {present}")
        return
    try:
        for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=names):
            for value in batch.to_pylist():
                yield record_of_fields(f"{piece.label}#{row}", value, fields)
                row += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        yield Damage(piece.label, _offset(file, group), f"row group {group} cannot be read ({error})")
        yield failed(f"{piece.label}#{row}", "damaged_archive", str(error)[:300])
