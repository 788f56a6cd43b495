"""A corpus build from committed dataset to token set, through the API."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import json_format
from longhaul.common.v1 import resource_pb2
from longhaul.corpus.v1 import corpus_build_pb2 as pb
from longhaul.corpus.v1 import token_set_pb2, tokenizer_pb2
from longhaul_core.errors import AlreadyExists, NotFound
from longhaul_core.manifests import Manifest, read_manifest, verify_part
from longhaul_core.objects import FilesystemStore
from longhaul_core.rpc.client import rpc_errors
from tokenizers import Tokenizer

from tests.integration.corpus.conftest import Place
from tests.integration.corpus.support import (
    PARENT,
    Client,
    Document,
    build_name,
    library_documents,
    rows,
    spec,
    write_dataset,
)

Tokens = npt.NDArray[np.uint16]


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_build_gives_token_set_that_accounts_for_every_document(client: Client) -> None:
    done = await client.run("first", spec())
    assert done.status.state == resource_pb2.JOB_STATE_SUCCEEDED, done.status.reason
    token_set = await client.token_set("first")
    manifest = read_manifest(client.store, token_set.manifest_key)
    assert token_set.digest == manifest.digest
    for part in manifest.parts:
        verify_part(client.store, part)
    _check_status(done.status, manifest)
    _check_accounting(client.store, manifest)
    _check_shards(client.store, manifest)
    _check_tasks(client.store, manifest)
    await _check_report(client, manifest)
    await _check_duplicates(client)
    assert not list(client.store.list(f"{_prefix(manifest)}/work/"))


async def test_build_asked_for_again_is_the_same_and_another_spec_is_refused(client: Client) -> None:
    first = await client.get("first")
    again = await client.create("first", spec())
    assert again.metadata.uid == first.metadata.uid
    assert again.status.state == resource_pb2.JOB_STATE_SUCCEEDED
    with pytest.raises(AlreadyExists) as refused, rpc_errors():
        await client.create("first", spec(sequence_length=64))
    assert refused.value.reason == "SPEC_DIFFERS"
    assert refused.value.metadata == {"sequence_length": "128 -> 64"}


async def test_watch_sees_build_to_its_end_with_token_set_and_tokenizer(client: Client) -> None:
    await client.create("seen", spec(shuffle_seed=1))
    fractions: list[float] = []
    async for response in client.builds.WatchCorpusBuilds(
        pb.WatchCorpusBuildsRequest(parent=PARENT, name=build_name("seen"))
    ):
        fractions.append(response.corpus_build.status.progress.fraction)
        if response.corpus_build.status.state == resource_pb2.JOB_STATE_SUCCEEDED:
            break
    assert fractions == sorted(fractions)
    assert len(set(fractions)) > 3
    found: list[str] = []
    async for response in client.token_sets.WatchTokenSets(token_set_pb2.WatchTokenSetsRequest(parent=PARENT)):
        found.append(response.token_set.corpus_build)
        if len(found) == 2:
            break
    assert found == [build_name("first"), build_name("seen")]
    listed = await client.tokenizers.ListTokenizers(tokenizer_pb2.ListTokenizersRequest(parent=PARENT))
    assert [tokenizer.spec.training.vocabulary_size for tokenizer in listed.tokenizers] == [768, 768]


async def test_build_with_another_shuffle_seed_has_same_documents_in_another_order(client: Client) -> None:
    first, seen = [read_manifest(client.store, (await client.token_set(id)).manifest_key) for id in ("first", "seen")]
    assert first.counts == seen.counts
    digests = [{part.digest for part in manifest.parts if part.key.endswith(".ds")} for manifest in (first, seen)]
    assert not digests[0] & digests[1]


async def test_token_set_deleted_is_gone_with_its_objects_and_can_be_built_again(client: Client) -> None:
    before = await client.token_set("seen")
    name = before.metadata.name
    await client.token_sets.DeleteTokenSet(token_set_pb2.DeleteTokenSetRequest(name=name))
    assert not list(client.store.list(before.manifest_key.rpartition("/")[0]))
    with pytest.raises(NotFound), rpc_errors():
        await client.token_set("seen")
    done = await client.run("seen", spec(shuffle_seed=1))
    assert done.status.state == resource_pb2.JOB_STATE_SUCCEEDED, done.status.reason
    after = await client.token_set("seen")
    contents = read_manifest(client.store, after.manifest_key).extra["content_digest"]
    assert after.metadata.uid != before.metadata.uid
    assert contents


async def test_build_with_cut_keeps_documents_without_the_shared_sentences(client: Client, place: Place) -> None:
    documents = library_documents()[:60]
    sentence = " ".join(f"word{number}" for number in range(20)) + "."
    leaky = [
        Document(f"{one.text}\n{sentence}\n{two.text}", "library")
        for one, two in zip(documents[:4], documents[4:8], strict=True)
    ]
    name = f"{PARENT}/datasets/leaky"
    await place.ingest.commit(name, *write_dataset(place.store, [*documents[8:], *leaky], name=name))
    task = place.folder / "quiz.jsonl"
    task.write_text(json.dumps({"context": sentence.rstrip("."), "choices": ["yes", "no"], "gold": 0}) + "\n")
    wanted = spec(
        datasets=[name],
        evaluation_tasks=pb.EvaluationTasks(files=[str(task)]),
        decontamination=pb.Decontamination(ngram=13, action=pb.CONTAMINATION_ACTION_CUT),
        tokenizer=pb.TokenizerSource(tokenizer=f"{PARENT}/tokenizers/first"),
    )
    done = await client.run("cut", wanted)
    assert done.status.state == resource_pb2.JOB_STATE_SUCCEEDED, done.status.reason
    assert done.status.documents_contaminated == 0
    manifest = read_manifest(place.store, (await client.token_set("cut")).manifest_key)
    rows_cut = {row["id"] for row in _accounting(place.store, manifest) if row["rule"] == "quiz"}
    held_out = {row["id"] for row in _accounting(place.store, manifest) if row["outcome"] == "valid"}
    assert rows_cut == {document.id for document in leaky} - held_out
    assert rows_cut
    extra: dict[str, Any] = dict(manifest.extra)
    tokenizer = Tokenizer.from_str(place.store.get(extra["tokenizer"]["key"]).decode())
    texts = [t for shard in _shards(extra, "train") for t in _documents(place.store, shard, tokenizer, extra["eos_id"])]
    assert not any("word7 word8" in text for text in texts)
    left = [text for text in texts for one in documents[:4] if text.startswith(one.text[:200])]
    assert len(left) == len(rows_cut)


def _prefix(manifest: Manifest) -> str:
    return next(part.key for part in manifest.parts if part.key.endswith("/report.json")).removesuffix("/report.json")


def _accounting(store: FilesystemStore, manifest: Manifest) -> list[dict[str, Any]]:
    table = pq.read_table(pa.BufferReader(store.get(f"{_prefix(manifest)}/accounting.parquet")))
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def _check_status(status: pb.CorpusBuildStatus, manifest: Manifest) -> None:
    counted = (
        status.documents_train + status.documents_valid + status.documents_duplicate + status.documents_contaminated
    )
    assert counted == status.documents_in == manifest.counts["documents"] == len(library_documents())
    assert status.tokens_train == manifest.counts["train_tokens"] > 0
    assert status.tokens_valid == manifest.counts["valid_tokens"] > 0
    assert status.progress.fraction == 1.0
    assert [phase.progress.fraction for phase in status.phases] == [1.0] * len(status.phases)
    assert status.inputs[0].name == manifest.inputs[0].name


def _check_accounting(store: FilesystemStore, manifest: Manifest) -> None:
    """Every document once; the injected copies were dropped for the right documents."""
    accounting = _accounting(store, manifest)
    documents = library_documents()
    assert Counter(row["id"] for row in accounting) == Counter(document.id for document in documents)
    outcomes = Counter(row["outcome"] for row in accounting)
    assert all(manifest.counts[f"{name}_documents"] == outcomes[name] for name in ("train", "valid", "duplicate"))
    kept = {row["id"] for row in accounting if row["outcome"] != "duplicate"}
    dropped = [row for row in accounting if row["outcome"] == "duplicate"]
    assert {row["duplicate_of"] for row in dropped} <= kept
    rules = Counter(row["rule"] for row in dropped)
    assert rules["exact"] == 5
    assert rules["url"] == 1
    assert rules["near"] >= 9
    texts = [document for document in documents if document.source in ("library", "guide")]
    originals = {document.id for document in texts[10:20]}
    copies = {document.id for document in texts[-11:-1]}
    pairs = {(row["id"], row["duplicate_of"]) for row in dropped if row["rule"] == "near"}
    assert sum(bool({left, right} & originals and {left, right} & copies) for left, right in pairs) >= 9


def _check_shards(store: FilesystemStore, manifest: Manifest) -> None:
    """Shards decode to exactly the documents of the accounting, each ended by the end-of-text token."""
    extra: dict[str, Any] = dict(manifest.extra)
    tokenizer = Tokenizer.from_str(store.get(extra["tokenizer"]["key"]).decode())
    texts = {document.id: document.text for document in library_documents()}
    accounting = _accounting(store, manifest)
    assert extra["token_dtype"] == "uint16"
    for split in ("train", "valid"):
        expected = Counter(texts[row["id"]] for row in accounting if row["outcome"] == split)
        found: Counter[str] = Counter()
        for source, sides in extra["sources"].items():
            side = sides[split]
            assert side["tokens"] == sum(shard["tokens"] for shard in side["shards"])
            for number, shard in enumerate(side["shards"]):
                assert shard["key"].endswith(f"/{split}/{source}/{number:05d}.ds")
                assert shard["tokens"] <= 40_000 or shard["documents"] == 1
                found.update(_documents(store, shard, tokenizer, extra["eos_id"]))
        assert found == expected
    counts = np.bincount(np.concatenate([_tokens(store, shard) for shard in _shards(extra, "valid")]))
    share = counts[counts > 0] / counts.sum()
    assert extra["validation"]["unigram_entropy_nats"] == pytest.approx(-(share * np.log(share)).sum())


def _shards(extra: dict[str, Any], split: str) -> list[dict[str, Any]]:
    return [shard for sides in extra["sources"].values() for shard in sides[split]["shards"]]


def _tokens(store: FilesystemStore, shard: dict[str, Any]) -> Tokens:
    return np.frombuffer(store.get(shard["key"]), dtype="<u2")


def _documents(store: FilesystemStore, shard: dict[str, Any], tokenizer: Tokenizer, end: int) -> list[str]:
    tokens, ends = _tokens(store, shard), np.frombuffer(store.get(shard["index_key"]), dtype="<u8").astype(np.int64)
    assert len(tokens) == shard["tokens"] == ends[-1]
    assert len(ends) == shard["documents"]
    assert (tokens[ends - 1] == end).all()
    assert (tokens == end).sum() == len(ends)
    return [tokenizer.decode(piece[:-1].tolist()) for piece in np.split(tokens, ends[:-1])]


def _check_tasks(store: FilesystemStore, manifest: Manifest) -> None:
    """Tasks come from validation documents alone, and no training document has 13 words in a row with them."""
    extra: dict[str, Any] = dict(manifest.extra)
    accounting = _accounting(store, manifest)
    clusters = {
        outcome: {row["cluster"] for row in accounting if row["outcome"] == outcome} for outcome in ("train", "valid")
    }
    assert not clusters["train"] & clusters["valid"]
    assert set(extra["eval_tasks"]) == {"bits_per_byte", "cloze"}
    for name, task in extra["eval_tasks"].items():
        items = rows(store, task["key"])
        assert len(items) == task["items"] > 0
        assert {int(item["cluster"]) for item in items} <= clusters["valid"]
        assert task["kind"] == name
        assert len({item["id"] for item in items}) == len(items)
    texts = {document.id: document.text for document in library_documents()}
    training = {gram for row in accounting if row["outcome"] == "train" for gram in _grams(texts[row["id"]])}
    for item in rows(store, extra["eval_tasks"]["cloze"]["key"]):
        assert len(item["choices"]) == 4
        assert not training & _grams(f"{item['context']} {item['choices'][item['gold']]}")


def _grams(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[start : start + 13]) for start in range(len(words) - 12)}


async def _check_report(client: Client, manifest: Manifest) -> None:
    answer = await client.builds.GetCorpusReport(pb.GetCorpusReportRequest(name=build_name("first")))
    report = json_format.MessageToDict(answer.content)
    assert report["funnel"]["documents"] == manifest.counts["documents"]
    assert report["funnel"]["exact"] == 5
    assert report["funnel"]["url"] == 1
    assert {task["task"] for task in report["decontamination"]["tasks"]} == {"bits_per_byte", "cloze"}
    assert {score["source"] for score in report["tokenizer"]["scores"]} == {"library", "guide", "total"}
    assert all(score["fertility"] > 1 for score in report["tokenizer"]["scores"])
    assert sum(row["weight"] for row in report["mixture"].values()) == pytest.approx(1.0)


async def _check_duplicates(client: Client) -> None:
    pairs: list[pb.DuplicatePair] = []
    token = ""
    while True:
        page = await client.builds.ListDuplicates(
            pb.ListDuplicatesRequest(name=build_name("first"), page_size=7, page_token=token)
        )
        pairs += page.duplicates
        token = page.next_page_token
        if not token:
            break
    assert len({pair.document_id for pair in pairs if pair.kind != "exact"}) == len(pairs) - 5
    assert all(pair.similarity == 1.0 for pair in pairs if pair.kind == "exact")
    assert all(pair.similarity > 0.6 for pair in pairs if pair.kind == "near")
