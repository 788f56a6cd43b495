from __future__ import annotations

from pathlib import Path

import pytest
from longhaul_core.errors import DataLoss
from longhaul_core.manifests import Part, put_part
from longhaul_core.objects import FilesystemStore
from longhaul_trainer.data.token_set import TokenFiles


class RemoteStore(FilesystemStore):
    """A store whose objects have no local path, like a bucket."""

    def local_path(self, key: str) -> None:
        return None


@pytest.fixture
def remote(tmp_path: Path) -> RemoteStore:
    opened = RemoteStore.open(tmp_path / "objects")
    assert isinstance(opened, RemoteStore)
    return opened


def test_part_of_a_bucket_is_copied_once_and_verified(remote: RemoteStore, tmp_path: Path) -> None:
    part = put_part(remote, "tokens/00000.ds", b"0123456789")
    files = TokenFiles(remote, [part], tmp_path / "cache")
    path = files.path(part.key)
    assert path.read_bytes() == b"0123456789"
    remote.delete(part.key)
    assert files.path(part.key) == path
    assert list((tmp_path / "cache").iterdir()) == [path]


def test_part_of_a_bucket_with_another_digest_is_refused_and_not_kept(remote: RemoteStore, tmp_path: Path) -> None:
    part = put_part(remote, "tokens/00000.ds", b"0123456789")
    remote.put(part.key, b"9876543210")
    with pytest.raises(DataLoss, match=r"00000\.ds does not match"):
        TokenFiles(remote, [part], tmp_path / "cache").path(part.key)
    assert list((tmp_path / "cache").iterdir()) == []


def test_part_of_a_folder_is_used_in_place_if_it_has_its_size(tmp_path: Path) -> None:
    store = FilesystemStore.open(tmp_path / "objects")
    part = put_part(store, "tokens/00000.ds", b"0123456789")
    files = TokenFiles(store, [part], tmp_path / "cache")
    assert files.path(part.key) == store.local_path(part.key)
    store.put(part.key, b"0123")
    with pytest.raises(DataLoss, match="has 4 bytes, not 10"):
        files.path(part.key)


def test_part_that_the_manifest_does_not_list_is_refused(tmp_path: Path) -> None:
    store = FilesystemStore.open(tmp_path / "objects")
    listed = Part(key="tokens/00000.ds", size=1, digest="0" * 64)
    with pytest.raises(DataLoss, match="not in the token set's manifest"):
        TokenFiles(store, [listed], tmp_path / "cache").path("tokens/00001.ds")
