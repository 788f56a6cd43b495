"""The Parquet parts of a dataset: kept documents and, apart, one row for each record that was not kept."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3
from longhaul_core.manifests import Part
from longhaul_core.objects import ObjectStore, ObjectWriter

from longhaul_ingest.domain.documents import Document, Refused

DOCUMENT_COLUMNS: Final = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("url", pa.string()),
        ("text", pa.string()),
        ("language", pa.string()),
        ("extra", pa.string()),
        ("file", pa.string()),
        ("offset", pa.int64()),
        ("language_score", pa.float32()),
        ("scores", pa.string()),
        ("annotations", pa.string()),
    ]
)
REFUSED_COLUMNS: Final = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("url", pa.string()),
        ("outcome", pa.string()),
        ("rule", pa.string()),
        ("detail", pa.string()),
        ("text", pa.string()),
    ]
)
ROW_GROUP_BYTES: Final = 16 << 20
ZSTD_LEVEL: Final = 3


class PartWriter:
    """Collects rows and writes them in row groups of bounded size."""

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._writer = writer
        self._schema = schema
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self.total = 0

    def add(self, row: dict[str, Any]) -> None:
        """Append one row."""
        self._rows.append(row)
        self._bytes += len(row["text"])
        self.total += 1
        if self._bytes >= ROW_GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the rows collected so far as a row group."""
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._bytes = [], 0


class DatasetParts:
    """The two parts of one shard; a part without rows is not written."""

    def __init__(self, store: ObjectStore, prefix: str, index: int) -> None:
        self._store = store
        self._keys = (f"{prefix}/shard-{index:05d}.parquet", f"{prefix}/dropped-{index:05d}.parquet")
        self._stack = ExitStack()
        self._documents: PartWriter | None = None
        self._refused: PartWriter | None = None
        self.parts: list[Part] = []

    def keep(self, source: str, document: Document) -> None:
        """Write a document."""
        if self._documents is None:
            self._documents = self._open(self._keys[0], DOCUMENT_COLUMNS)
        extra = json.dumps(dict(document.extra), sort_keys=True, ensure_ascii=False)
        labels = document.labels
        self._documents.add(
            {
                "id": document.id,
                "source": source,
                "url": document.url,
                "text": document.text,
                "language": labels.get("language"),
                "extra": extra,
                "file": document.extra.get("file"),
                "offset": _offset(document.extra),
                "language_score": labels.get("language_score"),
                "scores": json.dumps(labels["scores"], sort_keys=True) if labels.get("scores") else None,
                "annotations": json.dumps(document.notes, ensure_ascii=False) if document.notes else None,
            }
        )

    def refuse(self, source: str, refused: Refused) -> None:
        """Write what became of a record that is not kept."""
        if self._refused is None:
            self._refused = self._open(self._keys[1], REFUSED_COLUMNS)
        self._refused.add(
            {
                "id": refused.id,
                "source": source,
                "url": refused.url,
                "outcome": refused.outcome.value,
                "rule": refused.rule,
                "detail": refused.detail,
                "text": refused.sample,
            }
        )

    def _open(self, key: str, schema: pa.Schema) -> PartWriter:
        return self._stack.enter_context(_part(self._store, key, schema, self.parts))

    def __enter__(self) -> DatasetParts:
        self._stack.__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        self._stack.__exit__(*failure)
        self.parts.sort(key=lambda part: part.key, reverse=True)  # documents first


def _offset(extra: Mapping[str, str]) -> int | None:
    """Where the record begins: byte of the archive's member, or number of the line or row."""
    found = extra.get("offset")
    return int(found) if found is not None else None


@contextmanager
def _part(store: ObjectStore, key: str, schema: pa.Schema, parts: list[Part]) -> Iterator[PartWriter]:
    with store.open_write(key) as target:
        sink = _HashingSink(target)
        with pq.ParquetWriter(
            sink, schema, compression="zstd", compression_level=ZSTD_LEVEL, write_page_checksum=True
        ) as writer:
            rows = PartWriter(writer, schema)
            yield rows
            rows.flush()
    parts.append(Part(key=key, size=sink.size, digest=sink.digest))


class _HashingSink(io.RawIOBase):
    """Passes bytes on and digests them on the way, so that a part is read back by nobody."""

    def __init__(self, target: ObjectWriter) -> None:
        super().__init__()
        self._target = target
        self._hasher = blake3()
        self.size = 0

    @property
    def digest(self) -> str:
        return self._hasher.hexdigest()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._target.write(view)
        self._hasher.update(view)
        self.size += view.nbytes
        return view.nbytes
