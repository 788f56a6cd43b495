"""The recorder of the demo's crawl makes the same file again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.ingest.support import CRAWL

DOCUMENTATION = Path("/usr/share/doc/python3.11/html")


def test_recorder_on_the_same_documentation_gives_the_same_bytes(tmp_path: Path) -> None:
    index = DOCUMENTATION / "index.html"
    if not index.is_file() or "3.11.2 Documentation" not in index.read_text():
        pytest.skip("python3.11-doc 3.11.2 is not installed")
    out = tmp_path / "again.warc.gz"
    subprocess.run([sys.executable, CRAWL.with_name("record.py"), "--out", out], check=True, timeout=300)

    assert out.read_bytes() == CRAWL.read_bytes()
