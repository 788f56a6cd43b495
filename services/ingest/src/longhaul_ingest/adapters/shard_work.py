"""The work on one shard, run in a worker process: read, decide, write the parts, count.

The same shard gives the same bytes whoever works on it and however often: a repetition after a crash is harmless.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

from longhaul_core.engine import report
from longhaul_core.objects import ObjectStore, open_store
from longhaul_core.recipe import ExtractionMode, FilterConfig, SourceConfig, SourceKind

from longhaul_ingest.adapters.parts import DatasetParts
from longhaul_ingest.adapters.readers.damage import Damage, Found
from longhaul_ingest.adapters.readers.dispatch import read_piece
from longhaul_ingest.adapters.readers.lines import Fields
from longhaul_ingest.domain.documents import Document, Outcome, Refused
from longhaul_ingest.domain.extraction import extractor
from longhaul_ingest.domain.filters import build_filter
from longhaul_ingest.domain.pipeline import Pipeline
from longhaul_ingest.domain.planning import Piece
from longhaul_ingest.domain.tally import Tally

REPORT_SECONDS: Final = 0.5
FOR_CODE: Final = frozenset({"url_lists", "pii", "custom"})
"""Filters that judge source code too."""


def work_on_shard(payload: dict[str, Any]) -> dict[str, Any]:
    """Read, decide, write, count.

    Args:
        payload: `index`, `source` (SourceConfig), `pieces`, `extraction`, `filters` (FilterConfig), `fix_text`,
            `annotate`, `drop_samples`,
            `store_url` and `prefix` (where the parts go).

    Returns:
        `tally`, `parts` (of the manifest), `samples` of what was refused, `seconds`.

    Raises:
        NotFound, FailedPrecondition: a source file is gone or was changed.
        ResourceExhausted: the disk is full.
    """
    begun = time.monotonic()
    source = SourceConfig.model_validate(payload["source"])
    pieces = [Piece(*piece) for piece in payload["pieces"]]
    pipeline = _pipeline(
        payload["extraction"],
        tuple(FilterConfig.model_validate(item).model_dump_json() for item in payload["filters"]),
        source.kind is SourceKind.CODE,
        payload["fix_text"],
        payload["annotate"],
    )
    work = _ShardWork(source, pipeline, payload["drop_samples"])
    with DatasetParts(_store(payload["store_url"]), payload["prefix"], payload["index"]) as parts:
        work.run(pieces, parts)
    work.tally.check()
    return {
        "tally": work.tally.to_dict(),
        "parts": [part.model_dump() for part in parts.parts],
        "samples": work.samples,
        "seconds": time.monotonic() - begun,
    }


class _ShardWork:
    def __init__(self, source: SourceConfig, pipeline: Pipeline, drop_samples: int) -> None:
        self._source = source
        self._fields = Fields(source.text_field, source.url_field)
        self._pipeline = pipeline
        self._drop_samples = drop_samples
        self._sampled: Counter[str] = Counter()
        self._reported = time.monotonic()
        self.tally = Tally()
        self.samples: list[dict[str, str]] = []

    def run(self, pieces: Sequence[Piece], parts: DatasetParts) -> None:
        for piece in pieces:
            self._read(piece, read_piece(self._source.kind, piece, self._fields), parts)
            self.tally.bytes_read += piece.size

    def _read(self, piece: Piece, found: Iterable[Found], parts: DatasetParts) -> None:
        for record in found:
            if isinstance(record, Damage):
                self.tally.damage(f"{self._source.name}: {record}")
                continue
            self._report(piece, record.url)
            decision = self._pipeline.decide(record)
            if isinstance(decision, Document):
                parts.keep(self._source.name, decision)
                self.tally.keep(self._source.name, len(decision.text.encode()))
            else:
                parts.refuse(self._source.name, decision)
                self.tally.refuse(self._source.name, decision.outcome, decision.rule)
                self._sample(decision)

    def _sample(self, refused: Refused) -> None:
        if self._sampled[refused.rule] < self._drop_samples:
            self._sampled[refused.rule] += 1
            self.samples.append(
                {
                    "document_id": refused.id,
                    "source": self._source.name,
                    "url": refused.url,
                    "rule": refused.rule,
                    "detail": refused.detail,
                    "text": refused.sample,
                }
            )

    def _report(self, piece: Piece, url: str) -> None:
        now = time.monotonic()
        if now - self._reported >= REPORT_SECONDS:
            self._reported = now
            counts = {outcome.value: self.tally.total(outcome) for outcome in Outcome}
            report({**counts, "bytes": self.tally.bytes_read, "file": piece.label, "url": url})


@lru_cache(maxsize=8)
def _pipeline(extraction: str, filters: tuple[str, ...], is_code: bool, fix: bool, annotate: bool) -> Pipeline:
    """Source code is not judged by rules that describe prose, nor repaired as prose is."""
    chosen = [FilterConfig.model_validate_json(item) for item in filters]
    if is_code:
        chosen = [item for item in chosen if item.name in FOR_CODE]
    chain = tuple(build_filter(item.name, item.parameters) for item in chosen)
    return Pipeline(extractor(ExtractionMode(extraction)), chain, fix and not is_code, annotate)


@lru_cache(maxsize=4)
def _store(url: str) -> ObjectStore:
    return open_store(url)
