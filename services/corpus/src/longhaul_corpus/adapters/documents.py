"""Documents of dataset shards: Parquet read in small batches, only the columns and row groups that are needed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from longhaul_core.errors import DataLoss, Unavailable
from longhaul_core.objects import ObjectStore

BATCH_DOCUMENTS = 256
_LOOK = "Verify the dataset; look at the object store and at what lies between it and this machine."
_COLUMNS = frozenset({"id", "source", "url", "text"})


def open_shard(store: ObjectStore, key: str) -> pq.ParquetFile:
    """Open a dataset shard. Raises DataLoss where it is damaged or lacks a column."""
    path = store.local_path(key)
    source = path if path is not None else store.open_read(key)
    try:
        file = pq.ParquetFile(source, page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        message = f"Dataset shard {key!r} is damaged: {error}"
        if path is None:  # it may have been damaged on its way
            raise Unavailable(message, reason="SHARD_CORRUPT", action=_LOOK) from error
        raise DataLoss(message, reason="SHARD_DAMAGED") from error
    missing = _COLUMNS - set(file.schema_arrow.names)
    if missing:
        raise DataLoss(f"Dataset shard {key!r} lacks {', '.join(sorted(missing))}", reason="SHARD_COLUMN_MISSING")
    return file


@contextmanager
def whole_pages() -> Iterator[None]:
    """Turn what pyarrow raises over a page that is not as it was written into an error worth another attempt."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Unavailable(
            f"A page of a dataset shard is not as it was written: {error}",
            reason="SHARD_CORRUPT",
            action=_LOOK,
        ) from error


def batches(file: pq.ParquetFile, columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
    """Yield all documents as columns of Python values; a column that an older dataset lacks is left out."""
    there = [name for name in columns if name in file.schema_arrow.names]
    with whole_pages():
        for batch in file.iter_batches(batch_size=BATCH_DOCUMENTS, columns=there):
            yield batch.to_pydict()


def selected(
    file: pq.ParquetFile, columns: Sequence[str], rows: npt.NDArray[np.bool_]
) -> Iterator[tuple[npt.NDArray[np.int64], dict[str, list[Any]]]]:
    """Yield the documents at the chosen rows, with their row numbers; row groups without any are not read.

    Args:
        file: the shard.
        columns: columns to read.
        rows: whether each row is wanted: bool[rows].
    """
    start = 0
    for group in range(file.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        if rows[start:end].any():
            yield from _selected_of_group(file, columns, rows, group, start)
        start = end


def _selected_of_group(
    file: pq.ParquetFile, columns: Sequence[str], rows: npt.NDArray[np.bool_], group: int, start: int
) -> Iterator[tuple[npt.NDArray[np.int64], dict[str, list[Any]]]]:
    with whole_pages():
        for batch in file.iter_batches(batch_size=BATCH_DOCUMENTS, row_groups=[group], columns=list(columns)):
            wanted = np.flatnonzero(rows[start : start + batch.num_rows])
            if len(wanted):
                yield wanted + start, batch.take(pa.array(wanted)).to_pydict()
            start += batch.num_rows
