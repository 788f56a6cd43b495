"""OCI image archives, written with the standard library: the same input gives the same bytes.

Specification: https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

MEDIA = "application/vnd.oci.image"
EPOCH = 0
"""All times in an image, so that nothing depends on when it was built."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A compressed layer on disk: digests of the file and of the tar within."""

    path: Path
    digest: str
    diff_id: str


@dataclass(frozen=True, slots=True)
class Config:
    """How a container of the image is run."""

    entrypoint: Sequence[str]
    user: str
    environment: dict[str, str]
    ports: Sequence[int]
    folder: str
    labels: dict[str, str]

    def document(self, layers: Sequence[Layer], architecture: str) -> dict[str, Any]:
        """The image's configuration as the specification wants it."""
        return {
            "architecture": architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "User": self.user,
                "Env": [f"{name}={value}" for name, value in self.environment.items()],
                "Entrypoint": list(self.entrypoint),
                "WorkingDir": self.folder,
                "ExposedPorts": {f"{port}/tcp": {} for port in self.ports},
                "Labels": self.labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": layer.path.name} for layer in layers],
        }


class _Digests(io.RawIOBase):
    """Hashes what is written and passes it on."""

    def __init__(self, sink: BinaryIO) -> None:
        self.sha256 = hashlib.sha256()
        self._sink = sink

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self._sink.write(data)


def write_layer(root: Path, path: Path, owners: dict[str, int] | None = None) -> Layer:
    """Pack a folder; everything belongs to root, but for the folders of `owners` (path to user and group id)."""
    with path.open("wb") as file:
        compressed = _Digests(file)
        with gzip.GzipFile("", "wb", compresslevel=6, fileobj=cast(BinaryIO, compressed), mtime=EPOCH) as packer:
            plain = _Digests(cast(BinaryIO, packer))
            with tarfile.open(fileobj=cast(BinaryIO, plain), mode="w|", format=tarfile.PAX_FORMAT) as archive:
                for member in _members(root):
                    _add(archive, root, member, owners or {})
    return Layer(path, f"sha256:{compressed.sha256.hexdigest()}", f"sha256:{plain.sha256.hexdigest()}")


def write_archive(target: Path, name: str, config: Config, layers: Sequence[Layer], architecture: str) -> str:
    """Write an OCI layout as one tar, for `ctr images import` or `skopeo copy oci-archive:…`; returns its digest."""
    document = _json(config.document(layers, architecture))
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{MEDIA}.manifest.v1+json",
            "config": _descriptor(f"{MEDIA}.config.v1+json", document),
            "layers": [
                {
                    "mediaType": f"{MEDIA}.layer.v1.tar+gzip",
                    "digest": layer.digest,
                    "size": layer.path.stat().st_size,
                }
                for layer in layers
            ],
        }
    )
    tag = name.rpartition(":")[2]
    annotations = {"org.opencontainers.image.ref.name": tag, "io.containerd.image.name": full_name(name)}
    described = _descriptor(f"{MEDIA}.manifest.v1+json", manifest)
    platform = {"architecture": architecture, "os": "linux"}
    index = {"schemaVersion": 2, "mediaType": f"{MEDIA}.index.v1+json"}
    index["manifests"] = [{**described, "platform": platform, "annotations": annotations}]
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        _add_bytes(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add_bytes(archive, "index.json", _json(index))
        for blob in (document, manifest):
            _add_bytes(archive, _blob(_digest(blob)), blob)
        for layer in layers:
            _add_file(archive, _blob(layer.digest), layer.path)
    return str(described["digest"])


def full_name(name: str) -> str:
    """The name with its registry; a kubelet looks for an image without one under Docker's, imported or not."""
    first, slash, _ = name.partition("/")
    registry = slash and ("." in first or ":" in first or first == "localhost")
    return name if registry else f"docker.io/{name}"


def _members(root: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(root):
        names.sort()
        here = Path(folder)
        links = [name for name in names if (here / name).is_symlink()]
        yield from ([here] if here != root else [])
        yield from sorted(here / name for name in (*files, *links))


def _add(archive: tarfile.TarFile, root: Path, path: Path, owners: dict[str, int]) -> None:
    name = str(path.relative_to(root))
    member = archive.gettarinfo(path, name)
    if member.islnk():  # two names of one file: stored twice, so that the order of names does not matter
        member.type, member.linkname, member.size = tarfile.REGTYPE, "", path.stat().st_size
    member.mtime = EPOCH
    member.uid = member.gid = owners.get(name, 0)
    member.uname = member.gname = ""
    if member.isreg():
        with path.open("rb") as file:
            archive.addfile(member, file)
    else:
        archive.addfile(member)


def _add_bytes(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = len(data), EPOCH, 0o644
    archive.addfile(member, io.BytesIO(data))


def _add_file(archive: tarfile.TarFile, name: str, path: Path) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = path.stat().st_size, EPOCH, 0o644
    with path.open("rb") as file:
        archive.addfile(member, file)


def _descriptor(media: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media, "digest": _digest(data), "size": len(data)}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
