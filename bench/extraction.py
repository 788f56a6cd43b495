"""Quality of extraction: token F1 against the reStructuredText that documentation was made from.

Debian's `python3.11-doc` and `linux-doc` carry the sources of their pages: what a person wrote, without navigation.
Usage: python bench/extraction.py FOLDER... [--pages N]   (each FOLDER holds HTML and its `_sources`)
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import trafilatura
from longhaul_core.recipe import ExtractionMode
from longhaul_ingest.domain.extraction import extractor
from resiliparse.extract.html2text import extract_plain_text

WORD = re.compile(r"\w+")
COMMENT = re.compile(
    r"^([ \t]*)\.\.(?![ \t]*(?:[\w+:-]+::|_|\[|\|))[^\n]*\n(?:\1[ \t]+[^\n]*\n|[ \t]*\n)*", re.MULTILINE
)
HIDDEN = re.compile(
    r"^([ \t]*)\.\. (?:index|toctree|highlight|module|currentmodule|sectionauthor|moduleauthor|include|only|image"
    r"|figure|kernel-doc|c:namespace|testsetup|testcleanup|raw|contents|tabularcolumns|meta)::[^\n]*\n"
    r"(?:\1[ \t]+[^\n]*\n|[ \t]*\n(?=\1[ \t]+\S))*",
    re.MULTILINE,
)
OPTION = re.compile(r"^[ \t]+:[\w-]+:[^\n`]*$", re.MULTILINE)
DIRECTIVE = re.compile(r"^([ \t]*)\.\. [\w+:-]+::", re.MULTILINE)
TARGET = re.compile(r"^[ \t]*\.\. _[^\n]*:[^\n]*$|^__ [^\n]*$", re.MULTILINE)
ROLE = re.compile(r":[\w+:.-]+:`(?:[^`<]*?<([^`>]*)>|!?~?([^`]*))`")
LINK = re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{1,2}")


def source_words(text: str) -> Counter[str]:
    """The words of a source as a reader of the page sees them, mark-up taken out."""
    text = f"{text}\n"
    for pattern in (HIDDEN, COMMENT, TARGET, OPTION):
        text = pattern.sub("", text)
    text = LINK.sub(r"\1", DIRECTIVE.sub(r"\1", text))
    text = ROLE.sub(
        lambda found: (found.group(0).split("`")[1].split("<")[0] or found.group(1) or "").lstrip("!~"), text
    )
    return Counter(WORD.findall(text.lower()))


def scores(found: str, wanted: Counter[str]) -> tuple[float, float, float]:
    """Precision, recall and F1 over the multiset of words."""
    words = Counter(WORD.findall(found.lower()))
    common = (words & wanted).total()
    precision = common / words.total() if words else 0.0
    recall = common / wanted.total()
    return precision, recall, 2 * precision * recall / (precision + recall) if common else 0.0


def pairs(folder: Path, limit: int) -> Iterator[tuple[str, Counter[str]]]:
    """HTML and words of the source of each page of more than 50 words, in a seeded order."""
    sources = sorted((folder / "_sources").rglob("*.rst.txt")) + sorted((folder / "_sources").rglob("*.rst.txt.gz"))
    random.Random(0).shuffle(sources)
    for source in sources:
        name = str(source.relative_to(folder / "_sources")).removesuffix(".gz").removesuffix(".rst.txt")
        page = folder / f"{name}.html"
        if limit and page.is_file():
            wanted = source_words(source.read_text("utf-8", "replace"))
            if wanted.total() > 50:
                limit -= 1
                yield page.read_text("utf-8", "replace"), wanted


EXTRACTORS: dict[str, Callable[[str], str | None]] = {
    "ours, quality": extractor(ExtractionMode.QUALITY),
    "ours, fast": extractor(ExtractionMode.FAST),
    "Trafilatura, precision (datatrove)": lambda html: trafilatura.extract(
        html, favor_precision=True, include_comments=False, deduplicate=True
    ),
    "Trafilatura, defaults": trafilatura.extract,
    "Resiliparse, main content": lambda html: extract_plain_text(html, main_content=True),
    "Resiliparse, everything": extract_plain_text,
}


def main() -> None:
    """Print one JSON object a folder and extractor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--pages", type=int, default=150)
    options = parser.parse_args()
    for folder in options.folders:
        pages = list(pairs(folder, options.pages))
        for name, extract in EXTRACTORS.items():
            measured = [scores(extract(html) or "", wanted) for html, wanted in pages]
            precision, recall, f1 = (round(statistics.mean(column), 4) for column in zip(*measured, strict=True))
            line = {"bench": "extraction quality", "corpus": folder.parent.name, "pages": len(pages), "extractor": name}
            print(json.dumps({**line, "precision": precision, "recall": recall, "f1": f1}), flush=True)


if __name__ == "__main__":
    main()
