"""A record in, a decision out: decode, extract, clean, filter. Pure, so that any replica decides the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from longhaul_ingest.domain.charsets import decode, is_binary
from longhaul_ingest.domain.cleaning import clean_text
from longhaul_ingest.domain.documents import Decision, Document, Media, Page, Passage, Record, Refused, dropped, failed
from longhaul_ingest.domain.extraction import Extract
from longhaul_ingest.domain.features import Features
from longhaul_ingest.domain.filters import Filter, first_refusal
from longhaul_ingest.domain.nesting import MAXIMUM_DEPTH, nesting_depth


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What happens to each record of an ingestion."""

    extract: Extract
    filters: Sequence[Filter]

    def decide(self, record: Record) -> Decision:
        """What becomes of a record; never raises for what the record holds."""
        if isinstance(record, Refused):
            return record
        passage = record if isinstance(record, Passage) else self._read(record)
        if isinstance(passage, Refused):
            return passage
        text = clean_text(passage.text)
        if not text:
            return dropped(passage.url, "empty_text", "no text was left")
        refused = first_refusal(self.filters, Features(text))
        if refused is not None:
            rule, refusal = refused
            return dropped(passage.url, rule, refusal.detail, text)
        return Document(passage.url, text, passage.extra)

    def _read(self, page: Page) -> Passage | Refused:
        if not page.body:
            return dropped(page.url, "empty_body", "0 bytes")
        if is_binary(page.body, page.charset):
            return failed(page.url, "binary", "the bytes are no text")
        decoded = decode(page.body, page.charset, html=page.media is Media.HTML)
        if decoded is None:
            return failed(page.url, "undecodable", f"declared charset {page.charset or 'none'}")
        text = decoded.text
        if page.media is Media.HTML:
            depth = nesting_depth(text)
            if depth > MAXIMUM_DEPTH:
                return failed(page.url, "nested_too_deep", f"{depth} levels, limit {MAXIMUM_DEPTH}", text)
            try:
                text = self.extract(text)
            except Exception as error:  # whatever a parser raises on a hostile page, the shard goes on
                return failed(page.url, "extraction_error", f"{type(error).__name__}: {error}"[:300])
            if not text.strip():
                return dropped(page.url, "empty_extraction", "no main text found", decoded.text)
        return Passage(page.url, text, {**page.extra, "charset": decoded.charset})
