"""What goes through ingest: pages as they were found, documents as they are kept, and what became of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from blake3 import blake3

DOCUMENT_ID_CHARACTERS = 32
SAMPLE_CHARACTERS = 500


class Media(StrEnum):
    """What the bytes of a page are."""

    HTML = "html"
    TEXT = "text"
    CODE = "code"
    MARKDOWN = "markdown"
    EPUB = "epub"
    PDF = "pdf"


class Outcome(StrEnum):
    """The end of a record. Every record read has exactly one."""

    KEPT = "kept"
    DROPPED = "dropped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Page:
    """A record as a reader found it, not yet decoded. `url` is the address, or the path inside the source."""

    url: str
    body: bytes
    media: Media
    charset: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Passage:
    """A record that is text already (a field of JSON or Parquet)."""

    url: str
    text: str
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that ends without becoming a document: by which rule, and what was seen."""

    url: str
    outcome: Outcome
    rule: str
    detail: str = ""
    text: str = ""

    @property
    def id(self) -> str:
        """Digest of the text, or of the address where there was none."""
        return document_id(self.text or self.url)

    @property
    def sample(self) -> str:
        """The first characters of what there was."""
        return self.text[:SAMPLE_CHARACTERS]


@dataclass(frozen=True, slots=True)
class Document:
    """A clean text, with what filters noted of it (`labels`) and what they would have done (`notes`)."""

    url: str
    text: str
    extra: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[tuple[str, str]] = ()

    @property
    def id(self) -> str:
        """Digest of the text: equal texts have equal ids."""
        return document_id(self.text)


Record = Page | Passage | Refused
Decision = Document | Refused


def document_id(text: str) -> str:
    """The id of a text: 128 bits of BLAKE3 in hexadecimal."""
    return blake3(text.encode("utf-8", errors="surrogatepass")).hexdigest()[:DOCUMENT_ID_CHARACTERS]


def dropped(url: str, rule: str, detail: str = "", text: str = "") -> Refused:
    """A record that was understood and is not wanted."""
    return Refused(url, Outcome.DROPPED, rule, detail, text)


def failed(url: str, rule: str, detail: str = "", text: str = "") -> Refused:
    """A record that could not be read."""
    return Refused(url, Outcome.FAILED, rule, detail, text)
