"""The OCI archive: its layout, its digests, and that the same input gives the same bytes."""

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

from images.oci import Config, full_name, write_archive, write_layer


def make_root(folder: Path) -> Path:
    (folder / "usr/bin").mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "usr/bin/program").write_bytes(b"#!\n")
    (folder / "usr/bin/program").chmod(0o755)
    os.link(folder / "usr/bin/program", folder / "usr/bin/other")
    (folder / "bin").symlink_to("usr/bin")
    return folder


def archive(folder: Path) -> Path:
    layer = write_layer(make_root(folder / "root"), folder / "layer.tar.gz", {"data": 10001})
    config = Config(["/usr/bin/program"], "10001:10001", {"A": "b"}, [7401], "/data", {"l": "m"})
    write_archive(folder / "image.tar", "longhaul/x:1", config, [layer], "amd64")
    return folder / "image.tar"


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def blob(found: dict[str, bytes], descriptor: dict[str, Any]) -> bytes:
    algorithm, digest = descriptor["digest"].split(":")
    data = found[f"blobs/{algorithm}/{digest}"]
    assert hashlib.sha256(data).hexdigest() == digest
    assert len(data) == descriptor["size"]
    return data


def test_archive_is_an_oci_layout_whose_digests_hold(tmp_path: Path):
    found = members(archive(tmp_path))
    assert json.loads(found["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads(found["index.json"])["manifests"]
    assert entry["annotations"]["io.containerd.image.name"] == "docker.io/longhaul/x:1"
    manifest = json.loads(blob(found, entry))
    config = json.loads(blob(found, manifest["config"]))
    (layer,) = manifest["layers"]
    plain = gzip.decompress(blob(found, layer))
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(plain).hexdigest()}"]
    assert config["config"]["User"] == "10001:10001"
    assert config["config"]["Entrypoint"] == ["/usr/bin/program"]


def test_layer_keeps_links_modes_and_owners(tmp_path: Path):
    found = members(archive(tmp_path))
    manifest = json.loads(blob(found, json.loads(found["index.json"])["manifests"][0]))
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob(found, manifest["layers"][0])))) as layer:
        entries = {member.name: member for member in layer}
        assert layer.extractfile("usr/bin/other").read() == layer.extractfile("usr/bin/program").read() == b"#!\n"
    assert entries["bin"].linkname == "usr/bin"
    assert entries["usr/bin/program"].mode == 0o755
    assert (entries["data"].uid, entries["usr"].uid) == (10001, 0)
    assert {member.mtime for member in entries.values()} == {0}


def test_same_input_gives_the_same_bytes(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert archive(tmp_path / "a").read_bytes() == archive(tmp_path / "b").read_bytes()


def test_name_with_a_registry_stays_as_it_is() -> None:
    for name in ("registry.example/longhaul/x:1", "localhost/x:1", "host:5000/x@sha256:12"):
        assert full_name(name) == name
