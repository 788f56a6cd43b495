"""What an upload is: files by path, size and digest, and the pieces that they travel in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from longhaul_core.errors import InvalidArgument, ResourceExhausted
from longhaul_core.ids import fingerprint

PIECE_BYTES: Final = 8 << 20
MAXIMUM_FILES: Final = 20_000
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class UploadFile:
    """One file; `path` is relative, `digest` BLAKE3."""

    path: str
    size: int
    digest: str

    @property
    def pieces(self) -> int:
        """How many pieces it travels in; an empty file in one, which is empty."""
        return max(-(-self.size // PIECE_BYTES), 1)

    def piece_size(self, piece: int) -> int:
        """Bytes of a piece; the last one is shorter."""
        return min(PIECE_BYTES, self.size - piece * PIECE_BYTES)


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of an upload, in the order of their paths."""

    files: tuple[UploadFile, ...]

    @classmethod
    def of(cls, files: Sequence[UploadFile], maximum_bytes: int) -> Listing:
        """A listing that may be uploaded.

        Raises:
            InvalidArgument: No file, too many, one path twice, a path, size or digest that is none (UPLOAD_INVALID).
            ResourceExhausted: Together they are larger than allowed (UPLOAD_TOO_LARGE).
        """
        if not files:
            raise invalid_upload("files", "there is none")
        if len(files) > MAXIMUM_FILES:
            raise invalid_upload(
                "files", f"{len(files):,} files are more than {MAXIMUM_FILES:,}; pack them, as into JSONL"
            )
        for file in files:
            _check(file)
        paths = {file.path for file in files}
        if len(paths) < len(files):
            raise invalid_upload("files", "a path is there twice")
        total = sum(file.size for file in files)
        if total > maximum_bytes:
            raise ResourceExhausted(
                f"the files have {total:,} bytes, and an upload may have {maximum_bytes:,}",
                reason="UPLOAD_TOO_LARGE",
                metadata={"bytes": str(total), "maximum": str(maximum_bytes)},
                action="copy them into the object store yourself and name an s3:// location, or raise "
                "LONGHAUL_UPLOAD_MAXIMUM_BYTES of ingest",
            )
        return cls(tuple(sorted(files, key=lambda file: file.path)))

    @classmethod
    def from_json(cls, content: list[list[Any]]) -> Listing:
        """What `to_json` wrote."""
        return cls(tuple(UploadFile(path, size, digest) for path, size, digest in content))

    def to_json(self) -> list[list[Any]]:
        """Plain values."""
        return [[file.path, file.size, file.digest] for file in self.files]

    @property
    def id(self) -> str:
        """The same for the same files."""
        return fingerprint(self.to_json())

    def find(self, path: str) -> UploadFile:
        """The file of a path. Raises InvalidArgument."""
        for file in self.files:
            if file.path == path:
                return file
        raise invalid_upload("path", f"{path!r} is no file of this upload")


def check_piece(file: UploadFile, piece: int, size: int) -> None:
    """Refuse a piece that the file has not, or of another size. Raises InvalidArgument."""
    if not 0 <= piece < file.pieces:
        raise invalid_upload("piece", f"{file.path!r} has the pieces 0 to {file.pieces - 1}, not {piece}")
    if size != file.piece_size(piece):
        raise invalid_upload(
            "data", f"piece {piece} of {file.path!r} has {file.piece_size(piece):,} bytes, not {size:,}"
        )


def _check(file: UploadFile) -> None:
    if file.size < 0:
        raise invalid_upload("files", f"{file.path!r} has the size {file.size}")
    if not _DIGEST.fullmatch(file.digest):
        raise invalid_upload("files", f"{file.path!r} has the digest {file.digest!r}, not 64 hexadecimal digits")


def invalid_upload(field: str, problem: str) -> InvalidArgument:
    """What is wrong with a field of a request."""
    return InvalidArgument(f"{field}: {problem}", reason="UPLOAD_INVALID", violations=[(field, problem)])
