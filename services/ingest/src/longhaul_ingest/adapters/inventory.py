"""The files that a source's locations mean: folders, files and globs, in one fixed order."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote_from_bytes

from longhaul_core.errors import FailedPrecondition, LonghaulError, NotFound, PermissionDenied
from longhaul_core.recipe import SourceConfig, SourceKind

from longhaul_ingest.adapters.readers.streams import DAMAGE, read_chunks
from longhaul_ingest.adapters.remote import fetch, is_remote, list_objects
from longhaul_ingest.domain.languages import LANGUAGES
from longhaul_ingest.domain.planning import SourceFile

COMPRESSION: Final = (".gz", ".zst", ".bz2", ".xz")
ENDINGS: Final = {
    SourceKind.WARC: ("warc",),
    SourceKind.WET: ("wet", "warc"),
    SourceKind.HTML: ("html", "htm", "xhtml"),
    SourceKind.JSONL: ("jsonl", "ndjson", "json"),
    SourceKind.PARQUET: ("parquet",),
    SourceKind.TEXT: ("txt", "text", "md", "markdown", "rst"),
    SourceKind.CODE: tuple(LANGUAGES),
    SourceKind.CSV: ("csv", "tsv"),
    SourceKind.ARROW: ("arrow", "feather", "ipc"),
    SourceKind.MARKDOWN: ("md", "markdown", "mdx"),
    SourceKind.EPUB: ("epub",),
    SourceKind.PDF: ("pdf",),
}
SKIPPED_FOLDERS: Final = frozenset({"node_modules", "__pycache__"})


def list_files(source: SourceConfig) -> list[SourceFile]:
    """All files of a source, ordered by the bytes of their paths, each once.

    Raises:
        NotFound: a location does not exist, or a glob fits nothing (SOURCE_NOT_FOUND).
        PermissionDenied: a location cannot be read (SOURCE_UNREADABLE).
        FailedPrecondition: there is no file of the source's kind (SOURCE_EMPTY).
    """
    found: dict[bytes, SourceFile] = {}
    for location in (*source.paths, *_listed(source)):
        if is_remote(location):
            found |= {file.path.encode(): file for file in _objects(location, source)}
            continue
        for path, base in _expand(location, source):
            found.setdefault(os.fsencode(path), _describe(path, base, source.name))
    if not found:
        raise _empty(source)
    return [found[path] for path in sorted(found)]


def _listed(source: SourceConfig) -> Iterator[str]:
    """The locations in the source's lists, one a line; relative ones after its base."""
    for location in source.lists:
        try:
            path, label = _list_file(location)
            lines = b"".join(read_chunks(path, label)).decode().splitlines()
        except OSError as error:
            raise _unreadable(source.name, location, error) from error
        except (*DAMAGE, UnicodeDecodeError) as error:
            raise _unreadable(source.name, location, OSError(str(error))) from error
        for line in map(str.strip, lines):
            if line and not line.startswith("#"):
                yield line if "://" in line or line.startswith("/") else f"{source.list_base}{line}"


def _list_file(location: str) -> tuple[Path, str]:
    if not is_remote(location):
        return Path(location.removeprefix("file://")), location
    found = next(iter(list_objects(location)))
    return fetch(found.path, found.version), found.label


def without(files: Iterable[SourceFile], seen: Collection[tuple[str, int, str]]) -> list[SourceFile]:
    """The files that are not among those seen, by path, size and version."""
    return [file for file in files if (file.path, file.size, file.version) not in seen]


def _objects(location: str, source: SourceConfig) -> list[SourceFile]:
    listed = list(list_objects(location))
    if not listed:
        raise _missing(source.name, location, "there is no such object, and none below it")
    endings = _endings(source)
    return [file for file in listed if len(listed) == 1 or _plain(file.label).endswith(endings)]


def _expand(location: str, source: SourceConfig) -> Iterator[tuple[Path, Path]]:
    """The files of one location, each with the folder that its label leaves out."""
    if "://" in location and not location.startswith("file://"):
        raise _missing(source.name, location, "known are local paths, s3://, http:// and https://")
    path = Path(location.removeprefix("file://"))
    if path.is_dir():
        for file in _walk(path, source):
            yield file, path
    elif path.is_file():
        yield path, path.parent
    else:
        yield from _glob(path, source)


def _glob(pattern: Path, source: SourceConfig) -> Iterator[tuple[Path, Path]]:
    matches = [Path(match) for match in glob.glob(str(pattern), recursive=True)]  # noqa: PTH207  absolute patterns
    if not matches:
        what = "no file fits the pattern" if glob.has_magic(str(pattern)) else "there is no such file or folder"
        raise _missing(source.name, str(pattern), what)
    base = Path(os.path.commonpath([match.parent for match in matches]))
    for match in matches:
        if match.is_dir():
            for file in _walk(match, source):
                yield file, base
        else:
            yield match, base


def _walk(folder: Path, source: SourceConfig) -> Iterator[Path]:
    endings = _endings(source)

    def refuse(error: OSError) -> None:
        raise _unreadable(source.name, str(error.filename), error)

    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in SKIPPED_FOLDERS)
        for name in files:
            if not name.startswith(".") and _plain(name).endswith(endings):
                yield Path(place, name)


def _endings(source: SourceConfig) -> tuple[str, ...]:
    return tuple(f".{ending.lstrip('.').lower()}" for ending in source.extensions or ENDINGS[source.kind])


def _plain(name: str) -> str:
    name = name.lower()
    for ending in COMPRESSION:
        name = name.removesuffix(ending)
    return name


def _describe(file: Path, base: Path, source: str) -> SourceFile:
    try:
        with file.open("rb"):
            facts = file.stat()
    except OSError as error:
        raise _unreadable(source, str(file), error) from error
    label = os.fsencode(file.relative_to(base)).decode("utf-8", "backslashreplace")
    return SourceFile(quote_from_bytes(os.fsencode(file.absolute())), label, facts.st_size, str(facts.st_mtime_ns))


def _show(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _missing(source: str, location: str, problem: str) -> NotFound:
    return NotFound(
        f"Source {source!r}: {_show(location)}: {problem}.",
        reason="SOURCE_NOT_FOUND",
        metadata={"source": source, "path": _show(location)},
        action="Correct the path of the source in the recipe, or put the files there.",
    )


def _unreadable(source: str, path: str, error: OSError) -> LonghaulError:
    return PermissionDenied(
        f"Source {source!r}: {_show(path)} cannot be read: {error.strerror or error}.",
        reason="SOURCE_UNREADABLE",
        metadata={"source": source, "path": _show(path)},
        action="Give the user that runs the service the right to read it, or take it out of the source.",
    )


def _empty(source: SourceConfig) -> LonghaulError:
    endings: Sequence[str] = source.extensions or ENDINGS[source.kind][:8]
    return FailedPrecondition(
        f"Source {source.name!r} has no file of kind {source.kind.value!r} in {', '.join(map(_show, source.paths))}.",
        reason="SOURCE_EMPTY",
        metadata={"source": source.name, "path": _show(source.paths[0]) if source.paths else ""},
        action=f"Name files that end in {', '.join(endings)}, or set the source's kind or extensions.",
    )
