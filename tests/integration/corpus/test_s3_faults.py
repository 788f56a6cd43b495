"""A build whose object store answers 503, cuts answers or changes bytes: the undisturbed token set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from longhaul_core.errors import Unavailable
from longhaul_core.manifests import Manifest, read_manifest
from longhaul_core.objects import ObjectStore, open_store
from longhaul_core.objects.location import S3Location
from longhaul_core.objects.s3_client import connect as connect_s3
from longhaul_corpus.adapters.workspace import BuildContext
from longhaul_corpus.domain.phases import Phase
from moto.server import ThreadedMotoServer

from tests.integration.corpus.steps import build, here
from tests.integration.faulty_s3 import Fault, FaultyS3, faulty_s3
from tests.unit.corpus.texts import library_texts

ATTEMPTS = 3
"""Of a step, as the service makes them where a store does not answer."""


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FaultyS3, str]]:
    """The proxy before an empty bucket, and the URL of the bucket behind it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "access")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    connect_s3(S3Location("corpora", "", f"{host}:{port}", "us-east-1", secure=False)).make_bucket("corpora")
    with faulty_s3(f"{host}:{port}") as (proxy, address):
        yield proxy, f"s3://corpora/%s?endpoint={address}&secure=false"
    server.stop()


def patiently(context: BuildContext, phase: Phase, item: dict[str, Any]) -> dict[str, Any]:
    """Run a step as often as the service does."""
    for _ in range(ATTEMPTS - 1):
        try:
            return here(context, phase, item)
        except Unavailable:
            continue
    return here(context, phase, item)


def content(store: ObjectStore) -> tuple[dict[str, int], list[str]]:
    manifest: Manifest = read_manifest(store, "set/manifest.json")
    return dict(manifest.counts), [part.digest for part in manifest.parts]


def test_token_set_is_the_same_whatever_is_wrong_with_answers(proxy: tuple[FaultyS3, str], tmp_path: Path) -> None:
    misbehaving, url = proxy
    rows = [{"text": text} for text in (*library_texts()[:10], library_texts()[0])]
    build(tmp_path, rows)
    misbehaving.plan(*Fault, step=7)
    build(tmp_path, rows, url=url % "ill", run=patiently)

    assert min(misbehaving.fired[fault] for fault in Fault) >= 5
    misbehaving.plan()
    assert content(open_store(url % "ill")) == content(open_store(f"file://{tmp_path}"))


def test_dataset_whose_bytes_are_always_wrong_fails_by_name(proxy: tuple[FaultyS3, str], tmp_path: Path) -> None:
    misbehaving, url = proxy
    misbehaving.plan(Fault.WRONG, part="data/0.parquet")
    with pytest.raises(Unavailable, match=r"data/0\.parquet|not as it was written") as refused:
        build(tmp_path, [{"text": text} for text in library_texts()[:12]], url=url % "wrong", run=patiently)

    assert refused.value.reason == "SHARD_CORRUPT"
    assert misbehaving.fired[Fault.WRONG] >= ATTEMPTS
    assert not list(open_store(url % "wrong").list("set/manifest.json"))
