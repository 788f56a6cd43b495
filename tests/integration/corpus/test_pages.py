"""Documents of one address are copies of one page; places in a file and paths in a source are no addresses."""

from pathlib import Path

from tests.integration.corpus.steps import accounting, build
from tests.unit.corpus.texts import library_texts


def test_only_documents_of_one_address_are_dropped_as_one_page(tmp_path: Path) -> None:
    urls = ["notes.jsonl#0", "notes.jsonl#512", "src/README.md", "src/README.md", None, None]
    pages = ["https://x.org/a", "https://x.org/a/#top"]
    rows = [
        {"text": text, "url": url, "source": f"source-{number % 2}"}
        for number, (text, url) in enumerate(zip(library_texts()[20:80], [*urls, *pages] + 52 * [None], strict=True))
    ]
    build(tmp_path, rows)
    dropped = [row for row in accounting(tmp_path) if row["outcome"] == "duplicate"]
    assert [(row["url"] in pages, row["rule"]) for row in dropped] == [(True, "url")]
