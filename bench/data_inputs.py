"""What the rows of `bench/data.py` share: the real input, CPU time in turn, and the line that a row prints."""

from __future__ import annotations

import json
import os
import re
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"))
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import psutil
from longhaul_core.recipe import ExtractionMode, SourceKind
from longhaul_ingest.adapters.readers.dispatch import read_piece
from longhaul_ingest.adapters.readers.lines import Fields
from longhaul_ingest.domain.charsets import decode
from longhaul_ingest.domain.cleaning import clean_text
from longhaul_ingest.domain.documents import Media, Page
from longhaul_ingest.domain.extraction import extractor
from longhaul_ingest.domain.planning import Piece

ROOT = Path(__file__).parents[1]
CRAWL = ROOT / "examples/python-docs/python-docs.warc.gz"
REPEATS = 3
SLOW_DOCUMENTS = 60
WORDS = re.compile(r"\w+(?:['’-]\w+)*")

_met = 0
_rows = 0


def emit(bench: str, ours: float, peer: float, peer_name: str, unit: str, target: float, **more: Any) -> None:
    """Print one row; `ratio` is how many times better than the peer or the target's figure ours is."""
    global _met, _rows
    lower = more.pop("lower_is_better", False)
    ratio = (peer / ours if lower else ours / peer) if peer else 0.0
    met = ratio >= target if peer else (ours <= target if lower else ours >= target)
    _rows, _met = _rows + 1, _met + met
    line = {"bench": bench, "ours": round(ours, 3), "peer": round(peer, 3), "peer_name": peer_name, "unit": unit}
    print(json.dumps({**line, "ratio": round(ratio, 2), "target": target, "met": met, **more}), flush=True)


def cpu_seconds() -> float:
    """CPU time of this process, its living children and those it has waited for."""
    waited = resource.getrusage(resource.RUSAGE_CHILDREN)
    living = sum(sum(child.cpu_times()[:2]) for child in psutil.Process().children(recursive=True))
    return float(time.process_time() + waited.ru_utime + waited.ru_stime + living)


def alternate(*runs: Callable[[], Any]) -> list[float]:
    """Median CPU seconds of each run, one after another in turn."""
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(REPEATS):
        for run, times in zip(runs, taken, strict=True):
            begun = cpu_seconds()
            run()
            times.append(cpu_seconds() - begun)
    return [statistics.median(times) for times in taken]


@cache
def pages() -> list[str]:
    """HTML of the recorded crawl."""
    piece = Piece(str(CRAWL), CRAWL.name, 0, CRAWL.stat().st_size)
    found = [r for r in read_piece(SourceKind.WARC, piece, Fields()) if isinstance(r, Page) and r.media is Media.HTML]
    decoded = [decode(page.body, page.charset, html=True) for page in found]
    return [page.text for page in decoded if page is not None]


@cache
def texts() -> list[str]:
    """Texts of the crawl, extracted in fast mode."""
    extract = extractor(ExtractionMode.FAST)
    return [text for html in pages() if len(text := clean_text(extract(html))) > 500]


def megabytes(sample: Sequence[str]) -> float:
    return sum(len(text.encode()) for text in sample) / 1e6


def quiet() -> None:
    from loguru import logger

    logger.remove()


def summary() -> str:
    """How many of the rows printed so far met their target."""
    return f"{_met} of {_rows} targets met"
