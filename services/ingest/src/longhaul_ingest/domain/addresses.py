"""Block lists of addresses: domains, whole URLs, and words in URLs. The lists are the user's files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Final
from urllib.parse import urlsplit

from longhaul_ingest.domain.refusal import Refusal
from longhaul_ingest.domain.wordlists import read_list

if TYPE_CHECKING:
    from longhaul_ingest.domain.features import Features

NO_WORD: Final = re.compile(r"[^a-zA-Z0-9]+")


@dataclass(frozen=True, slots=True)
class UrlLists:
    """Refuses documents by their address; each list has one entry a line, and `#` begins a comment.

    A listed domain stands for all below it. A document whose address is no URL meets no list.
    """

    name: ClassVar[str] = "url_lists"

    domain_files: tuple[str, ...] = ()
    url_files: tuple[str, ...] = ()
    word_files: tuple[str, ...] = ()
    soft_word_files: tuple[str, ...] = ()
    min_soft_words: int = 2

    def refusals(self, text: Features) -> Iterator[Refusal]:
        """The lists that the address is on."""
        host = _host(text.url)
        if not host:
            return
        if self.domain_files and (found := _listed_domain(host, _entries(self.domain_files))):
            yield Refusal("domain_files", 1, 0, found)
        if self.url_files and text.url in _entries(self.url_files):
            yield Refusal("url_files", 1, 0, text.url[:300])
        if not (self.word_files or self.soft_word_files):
            return
        words = {word.lower() for word in NO_WORD.split(text.url) if word}
        if hard := words & _entries(self.word_files):
            yield Refusal("word_files", len(hard), 0, " ".join(sorted(hard)))
        soft = words & _entries(self.soft_word_files)
        if len(soft) >= self.min_soft_words:
            yield Refusal("soft_word_files", len(soft), self.min_soft_words, " ".join(sorted(soft)))


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def _listed_domain(host: str, listed: frozenset[str]) -> str:
    parts = host.split(".")
    above = (".".join(parts[start:]) for start in range(len(parts)))
    return next((domain for domain in above if domain in listed), "")


@lru_cache(maxsize=32)
def _entries(files: tuple[str, ...]) -> frozenset[str]:
    return frozenset(entry for file in files for entry in read_list(file))
