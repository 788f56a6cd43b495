"""Near duplicates, tokenising and the loader, against datatrove and tokenizers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from data_inputs import WORDS, alternate, emit, megabytes, texts


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


def loader() -> None:
    from longhaul_trainer.data.samples import SampleOrder
    from longhaul_trainer.data.tokens import TokenStream

    generator = np.random.default_rng(0)
    count, batches, batch, length = 60_000_000, 200, 64, 4096
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
