"""Bad input: one clear message, nothing half-written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from longhaul.common.v1 import resource_pb2
from longhaul.corpus.v1 import corpus_build_pb2 as pb
from longhaul_core.errors import FailedPrecondition, InvalidArgument, NotFound
from longhaul_core.manifests import put_part
from longhaul_core.rpc.client import rpc_errors

from tests.integration.corpus.conftest import Place
from tests.integration.corpus.support import (
    PARENT,
    Client,
    Document,
    build_name,
    library_documents,
    spec,
    write_dataset,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

Fields = dict[str, Any]


def trained(size: int) -> Fields:
    return {"tokenizer": pb.TokenizerSource(training=pb.TokenizerTraining(vocabulary_size=size))}


def tasks(path: Path, content: str) -> Fields:
    path.write_text(content)
    return {"evaluation_tasks": pb.EvaluationTasks(files=[str(path)])}


CASES: dict[str, tuple[Callable[[Path], Fields], str, str]] = {
    "vocabulary": (lambda _: trained(100_000), "VOCABULARY_TOO_LARGE", "A vocabulary of 100000 was asked for"),
    "sequence": (lambda _: {"sequence_length": 10**7}, "SEQUENCE_TOO_LONG", "A sequence has 10000000 tokens"),
    "malformed": (
        lambda folder: tasks(folder / "quiz.jsonl", '{"context": "a", "choices": ["b", "c"], "gold": 0}\n{"context"\n'),
        "EVALUATION_FILE_MALFORMED",
        "quiz.jsonl, line 2: it is not JSON",
    ),
    "missing-file": (
        lambda folder: {"evaluation_tasks": pb.EvaluationTasks(files=[str(folder / "none.jsonl")])},
        "EVALUATION_FILE_UNUSABLE",
        "it cannot be read: No such file or directory",
    ),
    "own-name": (
        lambda folder: tasks(folder / "cloze.jsonl", "{}"),
        "EVALUATION_FILE_UNUSABLE",
        "there is already a task named 'cloze'",
    ),
    "unknown-source": (
        lambda _: {"mixture": [pb.MixtureWeight(source="libary", weight=1)]},
        "MIXTURE_SOURCE_UNKNOWN",
        "The mixture names the source 'libary'",
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_build_fails_with_one_clear_reason_and_leaves_no_objects(
    client: Client, place: Place, tmp_path: Path, case: str
) -> None:
    fields, code, message = CASES[case]
    done = await client.run(case, spec(**fields(tmp_path)))
    assert done.status.state == resource_pb2.JOB_STATE_FAILED
    assert done.status.reason.code == code
    assert message in done.status.reason.message
    assert done.status.reason.action or code == "EVALUATION_FILE_UNUSABLE"
    with pytest.raises(NotFound), rpc_errors():
        await client.token_set(case)
    assert not [info for info in place.store.list(f"{PARENT}/tokensets/{case}/") if info.key.endswith("manifest.json")]


async def test_malformed_file_is_refused_before_the_dataset_exists(client: Client, tmp_path: Path) -> None:
    fields = tasks(tmp_path / "quiz.jsonl", "nonsense")
    done = await client.run("early", spec(datasets=[f"{PARENT}/datasets/never"], **fields))
    assert done.status.reason.code == "EVALUATION_FILE_MALFORMED"


async def test_dataset_without_document_is_refused(client: Client, place: Place) -> None:
    name = f"{PARENT}/datasets/empty"
    await place.ingest.commit(name, *write_dataset(place.store, [], name=name))
    done = await client.run("empty", spec(datasets=[name]))
    assert done.status.reason.code == "DATASET_EMPTY"


async def test_dataset_of_copies_alone_is_refused(client: Client, place: Place) -> None:
    name = f"{PARENT}/datasets/copies"
    documents = [Document(library_documents()[0].text, url=f"https://x/{number}") for number in range(20)]
    await place.ingest.commit(name, *write_dataset(place.store, documents, name=name))
    done = await client.run("copies", spec(datasets=[name]))
    assert done.status.reason.code == "TOO_FEW_DOCUMENTS"
    assert done.status.documents_in == 0


async def test_damaged_shard_is_refused_and_named(client: Client, place: Place) -> None:
    name = f"{PARENT}/datasets/damaged"
    committed = write_dataset(place.store, library_documents()[:40], name=name)
    put_part(place.store, f"{committed[0].rpartition('/')[0]}/shard-00001.parquet", b"PAR1 no more")
    await place.ingest.commit(name, *committed)
    done = await client.run("damaged", spec(datasets=[name]))
    assert done.status.reason.code == "SHARD_DAMAGED"
    assert "shard-00001.parquet" in done.status.reason.message


async def test_spec_with_wrong_values_is_refused_at_once_with_every_field(client: Client) -> None:
    wrong = spec(holdout=pb.Holdout(fraction=2.0), **trained(10))
    with pytest.raises(InvalidArgument) as refused, rpc_errors():
        await client.create("wrong", wrong)
    fields = [field for field, _ in refused.value.violations]
    assert fields == ["holdout.fraction", "tokenizer.training.vocabulary_size"]
    with pytest.raises(NotFound), rpc_errors():
        await client.get("wrong")


async def test_report_and_duplicates_of_an_unfinished_build_are_refused(client: Client) -> None:
    await client.create("unready", spec(datasets=[f"{PARENT}/datasets/never"]))
    with pytest.raises(FailedPrecondition) as refused, rpc_errors():
        await client.builds.GetCorpusReport(pb.GetCorpusReportRequest(name=build_name("unready")))
    assert refused.value.reason == "BUILD_NOT_FINISHED"
    with pytest.raises(FailedPrecondition) as refused, rpc_errors():
        await client.builds.ListDuplicates(pb.ListDuplicatesRequest(name=build_name("unready")))
    assert refused.value.reason == "DUPLICATES_NOT_KNOWN"
