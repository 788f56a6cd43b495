"""Speed and memory of the data services against datatrove and tokenizers, on the same real input in the same run.

Every figure is CPU time (children included) unless it says otherwise; ours and the peer alternate, medians of three.
`bound` is what a perfect implementation would cost on this machine, in the same unit, measured here too.
Usage: python bench/data.py [ROW...]   (rows: extraction filters minhash tokenising loader memory scaling)
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"))
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import psutil
from longhaul_core.recipe import ExtractionMode, SourceKind
from longhaul_ingest.adapters.readers.dispatch import read_piece
from longhaul_ingest.adapters.readers.lines import Fields
from longhaul_ingest.domain.charsets import decode
from longhaul_ingest.domain.cleaning import clean_text
from longhaul_ingest.domain.documents import Media, Page
from longhaul_ingest.domain.extraction import extractor
from longhaul_ingest.domain.features import Features
from longhaul_ingest.domain.filters import build_filter, judge
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
    process = psutil.Process()
    own = sum(process.cpu_times()[:4])
    return float(own + sum(sum(child.cpu_times()[:2]) for child in process.children(recursive=True)))


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


# --- extraction ------------------------------------------------------------------------------------------------------


def extraction() -> None:
    from datatrove.data import Document
    from datatrove.pipeline.extractors import Trafilatura
    from resiliparse.parse.html import HTMLTree

    sample = pages()[:: len(pages()) // SLOW_DOCUMENTS][:SLOW_DOCUMENTS]
    quality, fast = extractor(ExtractionMode.QUALITY), extractor(ExtractionMode.FAST)

    def theirs() -> None:
        documents = [Document(text=html, id=str(number)) for number, html in enumerate(sample)]
        assert len(list(Trafilatura(timeout=20).run(documents))) > 0.9 * len(sample)

    def of(extract: Callable[[str], str]) -> Callable[[], None]:
        return lambda: [extract(html) for html in sample] and None  # type: ignore[func-returns-value]

    for run in (of(quality), of(fast)):
        run()
    parse = of(lambda html: str(HTMLTree.parse(html) is None))
    ours, quick, peer, bound = (len(sample) / seconds for seconds in alternate(of(quality), of(fast), theirs, parse))
    common = {"peer_name": "datatrove Trafilatura", "unit": "docs/s", "bound": round(bound, 1)}
    emit("extraction, quality mode", ours, peer, target=2, bound_is="parsing the page once", **common)
    emit("extraction, fast mode", quick, peer, target=25, bound_is="parsing the page once", **common)


# --- filters ---------------------------------------------------------------------------------------------------------


def filters() -> None:
    from datatrove.data import Document
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
        fineweb_quality_filter,
        gopher_quality_filter,
        gopher_repetition_filter,
    )

    sample = texts()[::4]
    whole = texts()
    chain = [build_filter(name, {}) for name in ("gopher_repetition", "gopher_quality", "c4", "fineweb")]
    peers = [
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
    ]

    def ours() -> None:
        for text in whole:
            judge(chain, Features(text))

    def theirs(documents: Sequence[str]) -> None:
        for text in documents:
            document = Document(text=text, id="")
            for peer in peers:
                if peer.filter(document) is not True:
                    break

    def split() -> None:
        for text in whole:
            _ = Features(text).words

    ours()
    modules = (gopher_quality_filter, gopher_repetition_filter, fineweb_quality_filter)
    theirs(sample[:1])
    small = sample[:40]
    mine, slow, bound = alternate(ours, lambda: theirs(small), split)
    rate, floor = megabytes(whole) / mine, megabytes(whole) / bound
    common = {"unit": "MB/s", "bound": round(floor, 1), "bound_is": "splitting the words once"}
    emit("filters, default words", rate, megabytes(small) / slow, "datatrove, spaCy words", target=20, **common)
    saved = [module.split_into_words for module in modules]
    for module in modules:
        module.split_into_words = lambda text, language: WORDS.findall(text)
    mine, quick = alternate(ours, lambda: theirs(sample))
    for module, function in zip(modules, saved, strict=True):
        module.split_into_words = function
    emit(
        "filters, regex words",
        megabytes(whole) / mine,
        megabytes(sample) / quick,
        "datatrove, regex words",
        target=6,
        **common,
    )


# --- near duplicates -------------------------------------------------------------------------------------------------


def _our_clusters(sample: Sequence[str]) -> set[frozenset[int]]:
    from longhaul_corpus.domain.clusters import DisjointSets
    from longhaul_corpus.domain.minhash import MinHashParameters, SignatureHasher
    from longhaul_corpus.domain.words import simplified_bytes

    hasher = SignatureHasher(MinHashParameters())
    signatures = [hasher.signature(simplified_bytes(text)) for text in sample]
    present = np.array([signature is not None for signature in signatures])
    sets = DisjointSets(len(sample))
    for band in range(14):
        sets.join_equal(np.array([s.bands[band] if s else 0 for s in signatures], dtype=np.uint64), present)
    labels = sets.labels()
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return {frozenset(group.tolist()) for group in groups if len(group) > 1}


def _datatrove_clusters(sample: Sequence[str], words: Any) -> set[frozenset[int]]:
    import xxhash
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature

    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        step = MinhashDedupSignature(str(folder / "signatures"), config, **({"language": words} if words else {}))
        step._hash_func = lambda text: xxhash.xxh64_intdigest(text.encode())  # it hands str, which xxhash 4 refuses
        step.run((Document(text=text, id=str(number)) for number, text in enumerate(sample)), 0, 1)
        for bucket in range(14):
            stage = MinhashDedupBuckets(str(folder / "signatures"), str(folder / "buckets"), config=config)
            stage.run(None, bucket, 14)
        MinhashDedupCluster(str(folder / "buckets"), str(folder / "removed"), config, save_cluster_id=True).run(
            None, 0, 1
        )
        found = folder / "removed" / "000000.clusters"  # not written where nothing is a duplicate
        pairs = np.fromfile(found, dtype="<u4").reshape(-1, 2) if found.exists() else np.empty((0, 2), dtype=np.uint32)
    members: dict[int, set[int]] = {}
    for document, cluster in pairs.tolist():
        members.setdefault(cluster, set()).add(document)
    return {frozenset(group) for group in members.values()}


def minhash() -> None:
    from datatrove.utils.word_tokenizers import WordTokenizer
    from longhaul_corpus.domain.hashing import gram_hashes
    from longhaul_corpus.domain.words import simplified_bytes, split_words

    class SameWords(WordTokenizer):
        def word_tokenize(self, text: str) -> list[str]:
            return split_words(text)

        def sent_tokenize(self, text: str) -> list[str]:
            return [text]

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return [(0, len(text))]

    class RegexWords(SameWords):
        def word_tokenize(self, text: str) -> list[str]:
            return WORDS.findall(text)

    whole = [*texts(), *(f"{text}\nA copy with a line of its own." for text in texts()[::5])]
    sample = whole[:: max(len(whole) // 120, 1)]
    small = sample[:40]
    _our_clusters(sample)
    same = _our_clusters(sample) == _datatrove_clusters(sample, SameWords("en"))
    assert same, "the clusters differ on the same words"

    def hashing() -> None:
        for text in whole:
            gram_hashes(simplified_bytes(text), 5)

    ours, regex, default, bound = alternate(
        lambda: _our_clusters(whole),
        lambda: _datatrove_clusters(sample, RegexWords("en")),
        lambda: _datatrove_clusters(small, None),
        hashing,
    )
    rate = megabytes(whole) / ours
    common = {"unit": "MB/s", "bound": round(megabytes(whole) / bound, 1), "bound_is": "hashing the 5-grams once"}
    emit("MinHash, default words", rate, megabytes(small) / default, "datatrove, spaCy words", target=12, **common)
    emit(
        "MinHash, regex words",
        rate,
        megabytes(sample) / regex,
        "datatrove, regex words",
        target=3,
        same_clusters=same,
        **common,
    )


# --- tokenising ------------------------------------------------------------------------------------------------------


def tokenising() -> None:
    from datatrove.data import Document
    from datatrove.pipeline.tokens import DocumentTokenizer
    from longhaul_corpus.domain.fast_encoding import CheckedEncoder, fast_encoding
    from longhaul_corpus.domain.spec import TokenizerTraining
    from longhaul_corpus.domain.tokenizer import Encoder, train_tokenizer

    whole = texts()
    training = TokenizerTraining(vocabulary_size=8192, digits="none")
    tokenizer = train_tokenizer([whole], training)
    reference = Encoder(tokenizer, training.end_of_text)
    fast = fast_encoding(tokenizer)
    assert fast is not None
    expected = np.concatenate(list(reference.documents(whole)))
    encoder = CheckedEncoder(reference, fast)
    same = np.array_equal(np.concatenate(list(encoder.documents(whole))), expected) and not encoder.differs
    assert same, "the ids differ"

    def theirs() -> None:
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save(f"{folder}/tokenizer.json")
            step = DocumentTokenizer(
                f"{folder}/out",
                f"{folder}/tokenizer.json",
                local_working_dir=f"{folder}/local",
                eos_token=training.end_of_text,
                shuffle_documents=False,
            )
            step.run((Document(text=text, id=str(number)) for number, text in enumerate(whole)), 0, 1)

    theirs()
    ours, batch, trove, bound = alternate(
        lambda: list(CheckedEncoder(reference, fast).documents(whole)),
        lambda: tokenizer.encode_batch(whole),
        theirs,
        lambda: [WORDS.findall(text) for text in whole],
    )
    size = megabytes(whole)
    common = {
        "unit": "MB/s",
        "target": 5,
        "identical_ids": same,
        "bound": round(size / bound, 1),
        "bound_is": "a regular expression over the text",
    }
    emit("tokenising, against encode_batch", size / ours, size / batch, "tokenizers.encode_batch", **common)
    emit("tokenising, against DocumentTokenizer", size / ours, size / trove, "datatrove DocumentTokenizer", **common)


# --- loader ----------------------------------------------------------------------------------------------------------


def loader() -> None:
    from longhaul_trainer.data.samples import SampleOrder
    from longhaul_trainer.data.tokens import TokenStream

    generator = np.random.default_rng(0)
    count, batches, batch, length = 60_000_000, 20, 64, 4096
    with tempfile.TemporaryDirectory() as folder:
        tokens, index = Path(folder, "t"), Path(folder, "i")
        generator.integers(0, 50_000, count).astype("<u2").tofile(tokens)
        ends = np.append(np.sort(generator.choice(count - 1, 60_000, replace=False)) + 1, count)
        ends.astype("<u8").tofile(index)
        stream = TokenStream("web", [(tokens, index)], "uint16")
        order = SampleOrder([stream], [1.0], sequence_length=length, seed=0, document_masking=True)
        raw = np.memmap(tokens, dtype="<u2", mode="r")

        def ours() -> None:
            for number in range(batches):
                _ = order.read(np.arange(number * batch, (number + 1) * batch)).cu_seqlens

        def copy() -> None:
            for number in range(batches):
                raw[number * batch * length : (number + 1) * batch * length].astype(np.int64)

        ours()
        mine, bound = alternate(ours, copy)
    size = batches * batch * length / 1e6
    emit(
        "loader, positions and cu_seqlens",
        size / mine,
        0,
        "none",
        "M tokens/s a core",
        50,
        bound=round(size / bound, 1),
        bound_is="copying the tokens as int64",
    )


# --- memory ----------------------------------------------------------------------------------------------------------


def _in_child(task: Callable[..., Any], *arguments: Any) -> Any:
    """Run in a spawned process; returns its answer."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(task, arguments)


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _rss_megabytes() -> float:
    return float(psutil.Process().memory_info().rss / 2**20)


def _build_context(folder: str, key_of: Sequence[str]) -> Any:
    from datetime import UTC, datetime

    from longhaul_corpus.adapters.workspace import BuildContext
    from longhaul_corpus.domain.spec import BuildSpec, TokenizerTraining

    spec = BuildSpec(datasets=("projects/p/datasets/d",), training=TokenizerTraining(vocabulary_size=1024))
    return BuildContext(f"file://{folder}", "set", "tok", "projects/p/tokenSets/s", "u", datetime.now(UTC), "t", spec)


def _write_dataset(folder: Path, shards: int, documents: int, characters: int) -> list[str]:
    """Dataset shards of made-up documents of real words, a tenth of them copies."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    words = np.array(sorted(set(WORDS.findall(" ".join(texts()[:60])))), dtype=object)
    generator = np.random.default_rng(0)
    keys = []
    for shard in range(shards):
        picks = generator.integers(0, len(words), (documents, characters // 7))
        picks[::10] = picks[5]
        rows = [" ".join(words[row]) for row in picks]
        ids = [f"{shard:016x}{number:016x}" for number in range(documents)]
        urls = [f"https://example.org/{shard}/{number}" for number in range(documents)]
        table = pa.table({"id": ids, "source": ["web"] * documents, "url": urls, "text": rows})
        keys.append(f"data/{shard:05d}.parquet")
        (folder / "data").mkdir(exist_ok=True)
        pq.write_table(table, folder / keys[-1], compression="zstd", row_group_size=20_000)
    return keys


def _sign(folder: str, keys: Sequence[str], numbers: Sequence[int]) -> tuple[list[dict[str, Any]], float, float]:
    from longhaul_corpus.adapters.steps.signatures import sign_shard
    from longhaul_corpus.adapters.workspace import Workspace

    workspace = Workspace(_build_context(folder, keys))
    base = _rss_megabytes()
    rows = [sign_shard(workspace, {"shard": number, "key": keys[number]}) for number in numbers]
    return rows, base, _peak_megabytes()


def _deduplicate(folder: str, keys: Sequence[str], rows: list[dict[str, Any]]) -> tuple[float, float]:
    from longhaul_corpus.adapters.steps.deduplicate import deduplicate
    from longhaul_corpus.adapters.workspace import Workspace
    from longhaul_corpus.domain.clusters import DisjointSets

    sets = DisjointSets(4)
    sets.join_equal(np.zeros(4, dtype=np.uint64), np.ones(4, dtype=np.bool_))  # compiled before the baseline
    workspace = Workspace(_build_context(folder, keys))
    base = _rss_megabytes()
    deduplicate(workspace, {"shards": rows})
    return base, _peak_megabytes()


def memory() -> None:
    shards, documents = 10, 100_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys = _write_dataset(folder, shards, documents, 70)
        rows = []
        for number in range(shards):
            found, _, _ = _in_child(_sign, name, keys, [number])
            rows += found
        disk = sum(file.stat().st_size for file in (folder / "set/work/signatures").rglob("*") if file.is_file()) / 1e6
        base, peak = _in_child(_deduplicate, name, keys, rows)
    note = {"documents": shards * documents, "lower_is_better": True}
    band = 14 * 8 * shards * documents / 1e6
    emit(
        "dedup memory, 1M documents",
        peak - base,
        0,
        "none",
        "MB over baseline",
        200,
        bound=round(3 * 8 * shards * documents / 1e6),
        bound_is="keys, order and forest of one band",
        **note,
    )
    emit(
        "dedup disk, 1M documents",
        disk,
        0,
        "none",
        "MB",
        170,
        bound=round(band),
        bound_is="14 band digests of 64 bits",
        **note,
    )
    peaks = []
    with tempfile.TemporaryDirectory() as name:
        keys = _write_dataset(Path(name), 4, 4000, 3000)
        for count in (1, 4):
            _, base, peak = _in_child(_sign, name, keys, list(range(count)))
            peaks.append(peak)
    emit(
        "peak memory, 4 × the input against 1 ×",
        peaks[1],
        peaks[0],
        "the same with a quarter of the input",
        "MB",
        0.9,
        lower_is_better=True,
    )


# --- scaling ---------------------------------------------------------------------------------------------------------


def scaling() -> None:
    import asyncio

    from longhaul_core.engine import LocalEngine

    with tempfile.TemporaryDirectory() as name:
        keys = _write_dataset(Path(name), 8, 1500, 4000)

        async def wall(workers: int) -> float:
            engine = LocalEngine(workers, preload=["longhaul_corpus.adapters.steps.signatures"])
            await engine.start()
            payload = {"folder": name, "keys": keys}
            await asyncio.gather(*(engine.submit(_task(), {**payload, "number": 0}) for _ in range(workers)))
            begun = time.perf_counter()
            await asyncio.gather(*(engine.submit(_task(), {**payload, "number": n}) for n in range(len(keys))))
            taken = time.perf_counter() - begun
            await engine.close()
            return taken

        pairs = [(asyncio.run(wall(1)), asyncio.run(wall(2))) for _ in range(REPEATS)]
    one, two = (statistics.median(column) for column in zip(*pairs, strict=True))
    emit(
        "scaling, 2 workers against 1",
        1 / two,
        1 / one,
        "1 worker",
        "runs/s (wall)",
        1.8,
        bound=2.0,
        bound_is="twice",
        load=round(os.getloadavg()[0], 1),
    )


def _task() -> Callable[[dict[str, Any]], dict[str, Any]]:
    sys.path.insert(0, str(Path(__file__).parent))
    import data

    return data.sign_task


def sign_task(payload: dict[str, Any]) -> dict[str, Any]:
    """Sign one shard, in a worker of the engine."""
    rows, _, _ = _sign(payload["folder"], payload["keys"], [payload["number"]])
    return rows[0]


ROWS = {row.__name__: row for row in (extraction, filters, minhash, tokenising, loader, memory, scaling)}


def main(wanted: Sequence[str]) -> None:
    quiet()
    for name in wanted or ROWS:
        ROWS[name]()
    print(f"bench-data: {_met} of {_rows} targets met")


def _names() -> Iterator[str]:
    yield from sys.argv[1:]


if __name__ == "__main__":
    main(list(_names()))
