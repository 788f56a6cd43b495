"""`kill -9` and a full disk at the writes of every phase of a build: the token set of an undisturbed one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from longhaul_core.manifests import read_manifest
from longhaul_core.objects import FilesystemStore
from longhaul_corpus.domain.phases import Phase
from longhaul_corpus.domain.spec import Decontamination, Deduplication, EvaluationTasks, MixtureWeight

from tests.integration.corpus.faults import Fault, FaultySteps
from tests.integration.corpus.steps import build
from tests.unit.corpus.texts import library_texts

WRITING = frozenset(Phase) - {Phase.LAYOUT}
"""Layout only decides and writes nothing."""


@pytest.mark.timeout(600)
def test_step_killed_or_out_of_space_at_any_write_gives_the_undisturbed_token_set(tmp_path: Path) -> None:
    texts = library_texts()[:16]
    question = {"question": " ".join(texts[3].split()[:20]), "answer": "none"}
    (tmp_path / "known.jsonl").write_text(json.dumps(question) + "\n")
    rows = [{"text": f"{text}\n\n{texts[0][:300]}", "source": "ab"[n % 2]} for n, text in enumerate(texts)]
    spec: dict[str, Any] = {
        "deduplication": Deduplication(paragraph_characters=80, substring_sentences=3, substring_words=30),
        "decontamination": Decontamination(question_ngram=8, files=(str(tmp_path / "known.jsonl"),)),
        "evaluation_tasks": EvaluationTasks(bits_per_byte_documents=1),
        "mixture": (MixtureWeight("a", 3.0), MixtureWeight("b", 1.0)),
    }
    for name in ("undisturbed", "disturbed"):
        (tmp_path / name).mkdir()
    undisturbed = build(tmp_path / "undisturbed", rows, **spec)
    with FaultySteps() as steps:
        disturbed = build(tmp_path / "disturbed", rows, run=steps, **spec)

    kills = {(phase, fault) for phase in WRITING for fault in (Fault.KILLED_BEFORE, Fault.KILLED_AFTER)}
    full = {(phase, Fault.DISK_FULL) for phase in WRITING}
    assert kills | full <= set(steps.fired)
    stores = [FilesystemStore.open(tmp_path / name) for name in ("undisturbed", "disturbed")]
    one, other = (read_manifest(store, "set/manifest.json") for store in stores)
    assert one.digest == other.digest
    assert [part.digest for part in one.parts] == [part.digest for part in other.parts]
    assert undisturbed[Phase.COMMIT] == disturbed[Phase.COMMIT]
    assert not list(stores[1].list("set/work/"))
