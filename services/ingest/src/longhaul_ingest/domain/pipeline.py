"""A record in, a decision out: decode, extract, clean, filter. Pure, so that any replica decides the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from longhaul_ingest.domain.books import BookError, epub_text, pdf_text
from longhaul_ingest.domain.charsets import decode, is_binary
from longhaul_ingest.domain.cleaning import clean_text, fix_text
from longhaul_ingest.domain.documents import Decision, Document, Media, Page, Passage, Record, Refused, dropped, failed
from longhaul_ingest.domain.extraction import Extract
from longhaul_ingest.domain.features import Features
from longhaul_ingest.domain.filters import Filter, judge
from longhaul_ingest.domain.licences import licence_of
from longhaul_ingest.domain.markdown import markdown_text
from longhaul_ingest.domain.nesting import MAXIMUM_DEPTH, nesting_depth

BOOKS: Final = {Media.EPUB: epub_text, Media.PDF: pdf_text}


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What happens to each record of an ingestion."""

    extract: Extract
    filters: Sequence[Filter]
    fix_text: bool = False
    annotate: bool = False

    def decide(self, record: Record) -> Decision:
        """What becomes of a record; never raises for what the record holds."""
        if isinstance(record, Refused):
            return record
        passage = record if isinstance(record, Passage) else self._read(record)
        if isinstance(passage, Refused):
            return passage
        text = clean_text(fix_text(passage.text) if self.fix_text else passage.text)
        if not text:
            return dropped(passage.url, "empty_text", "no text was left")
        found = judge(self.filters, Features(text, passage.url), everything=self.annotate)
        if self.annotate:
            return Document(passage.url, text, passage.extra, found.labels, found.notes)
        if found.refused is not None:
            rule, refusal = found.refused
            return dropped(passage.url, rule, refusal.detail, text)
        rest = found.text if found.text is text else clean_text(found.text)
        if not rest:
            return dropped(passage.url, "empty_text", "the filters left no text", text)
        return Document(passage.url, rest, passage.extra, found.labels)

    def _read(self, page: Page) -> Passage | Refused:
        if not page.body:
            return dropped(page.url, "empty_body", "0 bytes")
        if page.media in BOOKS:
            return _read_book(page)
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
        extra = {**page.extra, "charset": decoded.charset}
        if page.media is Media.MARKDOWN:
            text, about = markdown_text(text)
            extra |= about
        if page.media is Media.CODE and (licence := licence_of(text)):
            extra["licence"] = licence
        return Passage(page.url, text, extra)


def _read_book(page: Page) -> Passage | Refused:
    try:
        text, about = BOOKS[page.media](page.body)
    except BookError as error:
        return failed(page.url, "damaged_book", str(error)[:300])
    if not text.strip():
        return dropped(page.url, "empty_extraction", "it has no text layer")
    return Passage(page.url, text, {**page.extra, **about})
