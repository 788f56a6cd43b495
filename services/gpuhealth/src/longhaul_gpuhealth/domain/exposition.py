"""Reader of the Prometheus text format as dcgm-exporter writes it.

An exporter writes the same series in the same order on every scrape; only values change. So one regular expression
splits a page into series and values at C speed, and what the series mean is parsed once and kept: there is a
`PageReader` for each exporter. A line that is neither comment nor sample fails the whole page, as it does in
Prometheus, because a half-right page could show a wrong value. Time stamps are read over: signals count from the time
of their scrape.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_SAMPLES = re.compile(r"^(?=[^#\s])(.*\S)[ \t]+([-+.0-9A-Za-z]+)[ \t]*$", re.MULTILINE)
_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'[ \t]*[a-zA-Z_][a-zA-Z0-9_]*[ \t]*=[ \t]*"(?:[^"\\\n]|\\.)*"[ \t]*'
_SERIES = re.compile(rf"(?P<name>{_NAME})[ \t]*(?:\{{(?P<labels>(?:{_LABEL},)*(?:{_LABEL})?)[ \t]*\}})?")
_LABELS = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\\n]|\\.)*)"')
_LINE = re.compile(rf"({_SERIES.pattern})[ \t]+([-+.0-9A-Za-z]+)(?:[ \t]+-?[0-9]+)?")
_ESCAPE = re.compile(r'\\([\\"n])')
_UNESCAPED = {"\\": "\\", '"': '"', "n": "\n"}
_SHOWN_CHARACTERS = 80


class MalformedPageError(ValueError):
    """The text is no exposition; the message names the line."""


@dataclass(frozen=True, slots=True)
class Series:
    """Name and labels of a time series."""

    name: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Page:
    """Samples of one scrape: `values[i]` belongs to `series[i]`. Pages of one layout share one `series` object."""

    series: tuple[Series, ...]
    values: list[float]

    def __iter__(self) -> Iterator[tuple[Series, float]]:
        return zip(self.series, self.values, strict=True)


@dataclass(slots=True)
class PageReader:
    """Reads the pages of one exporter; keeps the layout of the last page only, so memory is bounded by one page."""

    _texts: list[str] = field(default_factory=list)
    _series: tuple[Series, ...] = ()

    def read(self, text: str) -> Page:
        """Parse a page. Raises `MalformedPageError`.

        Cost: about 0.7 µs a sample while the layout is that of the last page, 8 µs otherwise.
        """
        if text and not text.endswith("\n"):
            raise MalformedPageError("the page ends within a line: it is cut off")
        pairs = _SAMPLES.findall(text)
        texts = [pair[0] for pair in pairs]
        comments = text.count("\n#") + text.startswith("#")
        if len(texts) + comments != text.count("\n"):
            return self._read_lines(text)
        if texts != self._texts and not self._learn(texts):
            return self._read_lines(text)
        try:
            return Page(self._series, [float(pair[1]) for pair in pairs])
        except ValueError:
            return self._read_lines(text)  # says which line it is

    def _learn(self, texts: list[str]) -> bool:
        """Parse the series of a new layout; False when some text is more than a series."""
        shared: dict[str, Mapping[str, str]] = {}
        series = [_parse_series(text, shared) for text in texts]
        found = tuple(one for one in series if one is not None)
        if len(found) < len(series):
            return False
        self._texts, self._series = texts, found
        return True

    def _read_lines(self, text: str) -> Page:
        """Line by line: unusual pages (blank lines, time stamps), and the place of the fault in malformed ones."""
        series: list[Series] = []
        values: list[float] = []
        for number, raw in enumerate(text.split("\n"), start=1):
            line = raw.strip(" \t\r")
            if not line or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line)
            parsed = _parse_series(match.group(1), {}) if match else None
            if match is None or parsed is None:
                raise _malformed(number, line)
            try:
                values.append(float(match.groups()[-1]))
            except ValueError:
                raise _malformed(number, line) from None
            series.append(parsed)
        return Page(tuple(series), values)


def _parse_series(text: str, shared: dict[str, Mapping[str, str]]) -> Series | None:
    """The series of a text, or None; those of equal label texts share their labels, as all signals of a GPU do."""
    match = _SERIES.fullmatch(text)
    if match is None:
        return None
    label_text = match.group("labels") or ""
    labels = shared.get(label_text)
    if labels is None:
        labels = {sys.intern(name): _unescape(value) for name, value in _LABELS.findall(label_text)}
        shared[label_text] = labels
    return Series(sys.intern(match.group("name")), labels)


def _unescape(value: str) -> str:
    return _ESCAPE.sub(lambda found: _UNESCAPED[found.group(1)], value) if "\\" in value else value


def _malformed(number: int, line: str) -> MalformedPageError:
    return MalformedPageError(f"line {number} is no sample: {line[:_SHOWN_CHARACTERS]!r}")
