"""Manifests: canonical digest, commit by conditional create, verification of what is read."""

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from longhaul_core.errors import AlreadyExists, DataLoss, FailedPrecondition, NotFound
from longhaul_core.manifests import (
    CommitAuthority,
    InputRef,
    Manifest,
    Part,
    put_file_part,
    put_part,
    read_manifest,
    verify_part,
    write_manifest,
)
from longhaul_core.objects import FilesystemStore, ObjectInfo

KEY = "projects/p/datasets/d/0123/manifest.json"
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def make_manifest(**changes: object) -> Manifest:
    values = {
        "kind": "Dataset",
        "name": "projects/p/datasets/d",
        "uid": "u-1",
        "created": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "config": {"threshold": 0.8},
        "inputs": [InputRef(name="projects/p/datasets/c", digest="ab")],
        "parts": [Part(key="projects/p/datasets/d/0123/shard-00000.parquet", size=3, digest="cd")],
        "counts": {"kept": 2},
    }
    return Manifest.model_validate({**values, **changes})


@pytest.fixture
def store(tmp_path: Path) -> FilesystemStore:
    return FilesystemStore.open(tmp_path / "objects")


def test_write_then_read_gives_the_same_manifest(store: FilesystemStore) -> None:
    manifest = make_manifest()
    write_manifest(store, KEY, manifest)
    there = read_manifest(store, KEY)
    assert there == manifest
    assert there.digest == manifest.digest
    assert there.size == 3


def test_digest_is_blake3_of_the_stored_json_without_the_digest(store: FilesystemStore) -> None:
    write_manifest(store, KEY, make_manifest(extra={"name": "Zoë"}))
    document = json.loads(store.get(KEY))
    digest = document.pop("digest")
    assert document["schema"] == "longhaul.manifest/v1"
    assert document["parts"][0]["digest_algorithm"] == "blake3"
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert digest == blake3(text.encode()).hexdigest()


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_digest_survives_json_and_the_order_of_keys(extra: dict[str, object]) -> None:
    manifest = make_manifest(extra=extra)
    text = json.dumps(manifest.model_dump(mode="json"))
    assert Manifest.model_validate_json(text).digest == manifest.digest
    assert make_manifest(extra=dict(reversed(extra.items()))).digest == manifest.digest


def test_write_again_is_the_same_commit(store: FilesystemStore) -> None:
    write_manifest(store, KEY, make_manifest())
    first = store.stat(KEY)
    assert write_manifest(store, KEY, make_manifest()) == make_manifest()
    assert store.stat(KEY) == first


@pytest.mark.parametrize("authority", list(CommitAuthority))
def test_write_of_another_manifest_is_refused(store: FilesystemStore, authority: CommitAuthority) -> None:
    write_manifest(store, KEY, make_manifest(), authority=authority)
    write_manifest(store, KEY, make_manifest(), authority=authority)
    with pytest.raises(AlreadyExists) as caught:
        write_manifest(store, KEY, make_manifest(uid="u-2"), authority=authority)
    assert caught.value.reason == "MANIFEST_DIFFERS"
    assert caught.value.metadata["committed"] == make_manifest().digest
    assert caught.value.metadata["offered"] == make_manifest(uid="u-2").digest
    assert read_manifest(store, KEY).uid == "u-1"


def test_racing_commits_have_one_winner(store: FilesystemStore) -> None:
    def commit(number: int) -> bool:
        try:
            write_manifest(store, KEY, make_manifest(uid=f"u-{number}"))
        except AlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(commit, range(8)))
    assert won.count(True) == 1
    assert read_manifest(store, KEY).uid == f"u-{won.index(True)}"


class UnconditionalStore(FilesystemStore):
    """A folder that behaves as the S3 servers that have no conditional writes."""

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = False) -> ObjectInfo:
        if if_absent:
            raise FailedPrecondition("no", reason="NO_CONDITIONAL_WRITES")
        return super().put(key, data)


def test_without_conditional_writes_only_the_database_may_commit(tmp_path: Path) -> None:
    store = UnconditionalStore.open(tmp_path)
    with pytest.raises(FailedPrecondition):
        write_manifest(store, KEY, make_manifest())
    assert not store.exists(KEY)
    write_manifest(store, KEY, make_manifest(), authority=CommitAuthority.DATABASE)
    assert read_manifest(store, KEY) == make_manifest()


def test_read_of_any_damaged_byte_is_data_loss(store: FilesystemStore) -> None:
    write_manifest(store, KEY, make_manifest())
    good = store.get(KEY)
    meaningful = [n for n, byte in enumerate(good) if not chr(byte).isspace()]
    for position in itertools.islice(meaningful, 0, None, 7):
        damaged = bytearray(good)
        damaged[position] ^= 0x01
        store.put(KEY, bytes(damaged))
        with pytest.raises(DataLoss) as caught:
            read_manifest(store, KEY)
        assert caught.value.reason == "MANIFEST_CORRUPT"


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"digest": "x"}', "\xff"])
def test_read_of_something_else_is_data_loss(store: FilesystemStore, text: str) -> None:
    store.put(KEY, text.encode("latin-1"))
    with pytest.raises(DataLoss):
        read_manifest(store, KEY)


def test_read_of_a_newer_schema_says_so(store: FilesystemStore) -> None:
    document = make_manifest().model_dump(mode="json") | {"schema": "longhaul.manifest/v9"}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    store.put(KEY, json.dumps({**document, "digest": blake3(text.encode()).hexdigest()}).encode())
    with pytest.raises(FailedPrecondition, match="v9") as caught:
        read_manifest(store, KEY)
    assert caught.value.reason == "MANIFEST_SCHEMA_UNKNOWN"


def test_read_where_nothing_was_committed_is_not_found(store: FilesystemStore) -> None:
    with pytest.raises(NotFound):
        read_manifest(store, KEY)


def test_parts_carry_size_and_digest_of_their_bytes(store: FilesystemStore, tmp_path: Path) -> None:
    data = bytes(range(256)) * 100_000
    path = tmp_path / "file"
    path.write_bytes(data)
    expected = blake3(data).hexdigest()
    for part in (put_part(store, "a/memory", data), put_file_part(store, "a/file", path)):
        assert (part.size, part.digest, part.digest_algorithm) == (len(data), expected, "blake3")
        verify_part(store, part)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda store: store.delete("part"), "PART_MISSING"),
        (lambda store: store.put("part", b"12"), "PART_SIZE_DIFFERS"),
        (lambda store: store.put("part", b"124"), "PART_DIGEST_DIFFERS"),
    ],
)
def test_verify_names_what_is_wrong_with_a_part(store: FilesystemStore, change: object, reason: str) -> None:
    part = put_part(store, "part", b"123")
    assert callable(change)
    change(store)
    with pytest.raises(DataLoss) as caught:
        verify_part(store, part)
    assert caught.value.reason == reason
    assert caught.value.metadata["key"] == "part"
