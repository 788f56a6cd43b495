"""Sources on the user's machine: brought into the project's prefix before a recipe is submitted to an installation.

A location that exists here is uploaded; others are the installation's own (`s3://`, `https://`, folders of its volume).
What is there already is not sent again, so an upload that was interrupted goes on where it was.
"""

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from longhaul.ingest.v1 import upload_pb2
from longhaul_core.digests import hash_file
from longhaul_core.errors import InvalidArgument
from longhaul_core.recipe import SourceConfig

from longhaul_client.recipes import Recipe
from longhaul_client.sdk import Client, call

WRITE_SECONDS, FINISH_SECONDS = 120.0, 3600.0
SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__"})

Report = Callable[[str, int, int], None]
"""Source, bytes that are there, bytes of all its files."""


def ignore_report(source: str, done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of a source, and what it is called in the upload."""

    path: Path
    name: str


def with_uploaded_sources(client: Client, recipe: Recipe, report: Report = ignore_report) -> Recipe:
    """Upload the sources that lie on this machine, and return the recipe with their new locations.

    Raises:
        InvalidArgument: A file cannot be read, or its name cannot be that of an object.
        LonghaulError: What ingest answered, as UPLOAD_TOO_LARGE.
    """
    parent = f"projects/{recipe.project}"
    sources = [_uploaded(client, parent, source, report) for source in recipe.sources]
    return recipe.model_copy(update={"sources": sources})


def _uploaded(client: Client, parent: str, source: SourceConfig, report: Report) -> SourceConfig:
    paths, lists = (
        [place for path in given for place in _upload_location(client, parent, source, path, report)]
        for given in (source.paths, source.lists)
    )
    path = paths[0] if isinstance(source.path, str) and len(paths) == 1 else paths
    return source.model_copy(update={"path": path, "lists": lists})


def _upload_location(client: Client, parent: str, source: SourceConfig, location: str, report: Report) -> list[str]:
    """The locations in the installation that one location of the recipe becomes."""
    if "://" in location and not location.startswith("file://"):
        return [location]
    path = Path(location.removeprefix("file://"))
    if path.is_dir():
        files = [LocalFile(file, file.relative_to(path).as_posix()) for file in _walk(path, source.extensions)]
        if not files:
            raise InvalidArgument(
                f"Source {source.name!r}: the folder {path} has no file to upload.",
                reason="SOURCE_EMPTY",
                action="name a folder with files of the source's kind",
            )
        return [upload(client, parent, files, lambda done, total: report(source.name, done, total))]
    matches = [path] if path.is_file() else [Path(found) for found in sorted(glob.glob(location, recursive=True))]  # noqa: PTH207  absolute patterns
    matches = [match for match in matches if match.is_file()]
    if not matches:
        return [location]
    base = Path(os.path.commonpath([match.parent for match in matches]))
    files = [LocalFile(match, match.relative_to(base).as_posix()) for match in matches]
    folder = upload(client, parent, files, lambda done, total: report(source.name, done, total))
    return [_below(folder, file.name) for file in files]


def upload(client: Client, parent: str, files: list[LocalFile], report: Callable[[int, int], None]) -> str:
    """Bring files into the installation, as far as they are not there, and return their folder's location."""
    listed = {file.name: _described(file) for file in files}
    begun = call(
        client.uploads.BeginUpload,
        upload_pb2.BeginUploadRequest(parent=parent, files=listed.values()),
        timeout_seconds=WRITE_SECONDS,
    )
    total = sum(file.size for file in listed.values())
    done = total - sum(_missing_bytes(listed[one.path].size, one.pieces, begun.piece_bytes) for one in begun.missing)
    report(done, total)
    places = {file.name: file.path for file in files}
    for missing in begun.missing:
        for piece, data in _pieces(places[missing.path], missing.pieces, begun.piece_bytes):
            request = upload_pb2.WriteUploadRequest(name=begun.name, path=missing.path, piece=piece, data=data)
            call(client.uploads.WriteUpload, request, timeout_seconds=WRITE_SECONDS)
            done += len(data)
            report(done, total)
        finish = upload_pb2.FinishUploadRequest(name=begun.name, path=missing.path)
        call(client.uploads.FinishUpload, finish, timeout_seconds=FINISH_SECONDS)
    return begun.location


def _walk(folder: Path, extensions: list[str]) -> Iterator[Path]:
    endings = tuple(f".{ending.lstrip('.').lower()}" for ending in extensions)
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in SKIPPED_FOLDERS)
        for name in sorted(files):
            plain = name.lower()
            for compression in (".gz", ".zst", ".bz2", ".xz"):
                plain = plain.removesuffix(compression)
            if not name.startswith(".") and (not endings or plain.endswith(endings)):
                yield Path(place, name)


def _described(file: LocalFile) -> upload_pb2.UploadFile:
    try:
        return upload_pb2.UploadFile(path=file.name, size=file.path.stat().st_size, digest=hash_file(file.path))
    except OSError as error:
        raise InvalidArgument(
            f"{file.path} cannot be read: {error.strerror or error}",
            reason="SOURCE_UNREADABLE",
            metadata={"path": str(file.path)},
            action="make it readable, or take it out of the source",
        ) from error


def _pieces(path: Path, pieces: Iterable[int], piece_bytes: int) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as source:
        for piece in pieces:
            source.seek(piece * piece_bytes)
            yield piece, source.read(piece_bytes)


def _missing_bytes(size: int, pieces: Iterable[int], piece_bytes: int) -> int:
    return sum(max(min(piece_bytes, size - piece * piece_bytes), 0) for piece in pieces)


def _below(location: str, name: str) -> str:
    folder, mark, query = location.partition("?")
    return f"{folder}/{quote(name) if location.startswith('s3://') else name}{mark}{query}"
