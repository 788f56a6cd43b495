"""A build's steps run in this process: repeated passages, sampling, checked evaluation sets, the best score."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from datatrove.utils.dataset import DatatroveFileDataset
from longhaul_core.errors import FailedPrecondition
from longhaul_corpus.domain.phases import Phase
from longhaul_corpus.domain.spec import (
    Decontamination,
    Deduplication,
    SamplingRule,
)
from longhaul_corpus.export import main as export_main

from tests.integration.corpus.steps import accounting, build, decoded
from tests.unit.corpus.texts import library_texts

FOOTER = "This page was printed by the machine in the cellar of the library, and nobody may read it twice in a day."
STORY = " ".join(
    f"On day {n} the ferry crossed the sound with {n * 7} sheep and came back with salt." for n in range(9)
)


def test_repeated_paragraphs_and_runs_of_words_are_cut_and_the_first_stays(tmp_path: Path) -> None:
    texts = library_texts()[:40]
    rows = [{"text": f"{text}\n\n{FOOTER}"} for text in texts[:10]]
    rows += [{"text": f"{text} {STORY} Told by teller{n}."} for n, text in enumerate(texts[10:15])]
    rows += [{"text": text} for text in texts[15:]]
    rules = Deduplication(paragraph_characters=80, substring_words=30, minhash=False)
    results = build(tmp_path, rows, deduplication=rules)
    everything = "\n".join([*decoded(tmp_path), *decoded(tmp_path, "valid")])

    assert everything.count(FOOTER) == 1
    assert everything.count("On day 3 the ferry crossed") == 1
    assert all(f"teller{n}." in everything for n in range(5))
    assert sum(result["documents_cut"] for result in results[Phase.CUT]) >= 13
    report = json.loads((tmp_path / "set/report.json").read_text())
    assert report["passages"]["documents_cut"] >= 13
    emptied = [row for row in accounting(tmp_path) if row["rule"] == "passages"]
    assert len(emptied) == report["passages"]["documents_dropped"]


def test_held_out_documents_keep_what_training_documents_lose(tmp_path: Path) -> None:
    rows = [{"text": f"{text}\n\n{FOOTER}"} for text in library_texts()[:30]]
    build(tmp_path, rows, deduplication=Deduplication(paragraph_characters=80, minhash=False))

    assert sum(FOOTER in text for text in decoded(tmp_path, "valid")) == 1
    assert not any(FOOTER in text for text in decoded(tmp_path))


def test_repeated_runs_of_sentences_are_cut_and_the_first_stays(tmp_path: Path) -> None:
    texts = library_texts()[:30]
    terms = "You may copy this page. You may not sell it! Who asks for more? Nobody does."
    rows = [{"text": f"{text}\n{terms} Told by teller{n}. You may copy this page."} for n, text in enumerate(texts)]
    build(tmp_path, rows, deduplication=Deduplication(substring_sentences=3, minhash=False))
    everything = "\n".join([*decoded(tmp_path), *decoded(tmp_path, "valid")])

    assert everything.count("You may not sell it!") == 1
    assert everything.count("Who asks for more?") == 1
    assert everything.count("You may copy this page.") == len(rows) + 1  # alone it is no run of three
    assert all(f"Told by teller{n}." in everything for n in range(len(rows)))


def test_sampling_takes_documents_as_often_as_their_score_says(tmp_path: Path) -> None:
    texts = library_texts()[:60]
    rows = [{"text": text, "scores": json.dumps({"quality": n / 60})} for n, text in enumerate(texts)]
    sampling = (
        SamplingRule(score="quality", minimum=0.5, repeat=2.0),
        SamplingRule(score="quality", maximum=0.25, repeat=0.01),
    )
    build(tmp_path, rows, sampling=sampling)
    rows_out = accounting(tmp_path)
    written = decoded(tmp_path)

    copies = {
        n: row["copies"]
        for n, row in enumerate(sorted(rows_out, key=lambda row: row["id"]))
        if row["outcome"] == "train"
    }
    assert {copies[n] for n in copies if n >= 30} == {2}
    assert {copies[n] for n in copies if 15 <= n < 30} == {1}
    assert sum(row["outcome"] == "sampled_out" for row in rows_out) >= 10
    assert len(written) == sum(copies.values())
    assert len(set(written)) == len(copies)


def test_sampling_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    rows = [{"text": text} for text in library_texts()[:20]]
    with pytest.raises(FailedPrecondition, match="20 times; 16 are allowed"):
        build(tmp_path, rows, sampling=(SamplingRule(repeat=5.0), SamplingRule(source="web", repeat=4.0)))


def test_document_with_the_best_score_is_kept_of_copies(tmp_path: Path) -> None:
    texts = library_texts()[:20]
    rows = [{"text": text, "scores": json.dumps({"quality": 0.1})} for text in texts]
    rows += [{"text": text, "scores": json.dumps({"quality": 0.9})} for text in texts[:5]]
    build(tmp_path, rows, deduplication=Deduplication(keep="best_score", keep_score="quality"))
    dropped = {row["id"] for row in accounting(tmp_path) if row["outcome"] == "duplicate"}

    assert dropped == {f"{n:032x}" for n in range(5)}
    assert {row["cluster_size"] for row in accounting(tmp_path) if row["id"] in dropped} == {2}


def test_evaluation_sets_are_checked_against_by_their_questions(tmp_path: Path) -> None:
    texts = library_texts()[:30]
    words = [text.split() for text in texts]
    question = " ".join(words[3][:9])
    logged = {"doc_id": 0, "doc": {"question": question, "choices": {"text": ["no", "yes"]}}, "target": "yes"}
    flat = {"question": "What does nobody here know of the sea and of the ships that sail on it?", "answer": "Nothing"}
    (tmp_path / "arc.jsonl").write_text(json.dumps(logged) + "\n" + json.dumps(flat) + "\n")
    rules = Decontamination(question_ngram=8, files=(str(tmp_path / "arc.jsonl"),))
    results = build(tmp_path, [{"text": text} for text in texts], decontamination=rules)
    (found,) = [task for task in results[Phase.SETTLE][0]["tasks"] if task["task"] == "arc"]

    assert (found["items_hit"], found["items_hit_in_question"], found["documents"]) == (1, 1, 1)
    guilty = [row for row in accounting(tmp_path) if row["outcome"] == "contaminated"]
    assert [row["rule"] for row in guilty] == ["arc"]
    assert "arc" not in json.loads((tmp_path / "set/manifest.json").read_text())["extra"]["eval_tasks"]


def test_shards_are_read_by_datatrove_and_exported_to_megatron(tmp_path: Path) -> None:
    build(tmp_path, [{"text": text} for text in library_texts()[:30]])
    (shard,) = (tmp_path / "set/train").rglob("*.ds")
    tokens, ends = np.fromfile(shard, dtype="<u2"), np.fromfile(f"{shard}.index", dtype="<u8").astype(np.int64)
    theirs = DatatroveFileDataset(str(shard), seq_len=63, token_size=2)
    assert theirs[1]["input_ids"].tolist() == tokens[64:128].tolist()

    assert (
        export_main(["--store", f"file://{tmp_path}", "--manifest", "set/manifest.json", "--out", str(tmp_path / "m")])
        == 0
    )
    head = (tmp_path / "m/web-train.idx").read_bytes()
    magic, version, code, sequences, documents = struct.unpack("<9sQBQQ", head[:34])
    lengths = np.frombuffer(head, "<i4", sequences, 34)
    offsets = np.frombuffer(head, "<i8", sequences, 34 + 4 * sequences)
    assert (magic, version, code, documents) == (b"MMIDIDX\x00\x00", 1, 8, sequences + 1)
    assert (np.cumsum(lengths) == ends).all()
    assert (np.fromfile(tmp_path / "m/web-train.bin", "<u2") == tokens).all()
    second = np.fromfile(tmp_path / "m/web-train.bin", "<u2", lengths[1], offset=int(offsets[1]))
    assert (second == tokens[ends[0] : ends[1]]).all()
    assert (
        export_main(["--store", f"file://{tmp_path}", "--manifest", "set/none.json", "--out", str(tmp_path / "m")]) == 1
    )
