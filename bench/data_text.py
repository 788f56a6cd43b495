"""Extraction and filters against datatrove."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from data_inputs import SLOW_DOCUMENTS, WORDS, alternate, emit, megabytes, pages, texts
from longhaul_core.recipe import ExtractionMode
from longhaul_ingest.domain.extraction import extractor
from longhaul_ingest.domain.features import Features
from longhaul_ingest.domain.filters import build_filter, judge


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
