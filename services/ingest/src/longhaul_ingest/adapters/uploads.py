"""Uploads in the object store: `projects/P/uploads/ID/...` for finished files, pieces and the listing beside them.

Everything is named by content, so replicas need no word with one another: a piece that comes twice is written twice,
and a file appears whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import quote, urlsplit

from blake3 import blake3
from longhaul_core.errors import FailedPrecondition, InvalidArgument, NotFound
from longhaul_core.ids import fingerprint
from longhaul_core.objects import ObjectStore
from longhaul_core.objects.keys import check_key

from longhaul_ingest.domain.upload import Listing, UploadFile, check_piece, invalid_upload

_LISTINGS_KEPT = 64


class Uploads:
    """`store_url` is what the store was opened with; blocking."""

    def __init__(self, objects: ObjectStore, store_url: str) -> None:
        self.objects = objects
        self.store_url = store_url
        self._listing = lru_cache(maxsize=_LISTINGS_KEPT)(self._read_listing)

    def begin(self, project: str, listing: Listing) -> dict[str, list[int]]:
        """Keep the listing and return the missing pieces of each file that is not finished.

        Raises:
            InvalidArgument: The path of a file cannot be that of an object (UPLOAD_INVALID).
        """
        for file in listing.files:
            _check_path(file.path)
        self.objects.put(_listing_key(project, listing.id), json.dumps(listing.to_json()).encode())
        folder = _folder(project, listing.id)
        finished = {info.key.removeprefix(folder): info.size for info in self.objects.list(folder)}
        there = {info.key: info.size for info in self.objects.list(_pieces(project, listing.id))}
        missing = {}
        for file in listing.files:
            if finished.get(file.path) != file.size:
                keys = {piece: _piece_key(project, listing.id, file, piece) for piece in range(file.pieces)}
                missing[file.path] = [piece for piece, key in keys.items() if there.get(key) != file.piece_size(piece)]
        return missing

    def location(self, project: str, id: str) -> str:
        """Where a Source finds the files."""
        folder = _folder(project, id).rstrip("/")
        if self.store_url.startswith("file://"):
            return f"{self.store_url.rstrip('/')}/{folder}"
        parts = urlsplit(self.store_url)
        query = f"?{parts.query}" if parts.query else ""
        return f"s3://{parts.netloc}{parts.path.rstrip('/')}/{quote(folder)}{query}"

    def write(self, project: str, id: str, path: str, piece: int, data: bytes) -> None:
        """Keep one piece. Raises NotFound, InvalidArgument."""
        file = self._listing(project, id).find(path)
        check_piece(file, piece, len(data))
        self.objects.put(_piece_key(project, id, file, piece), data)

    def finish(self, project: str, id: str, path: str) -> None:
        """Make the file of its pieces, which are removed then.

        Raises:
            NotFound: The upload was never begun (UPLOAD_NOT_FOUND).
            FailedPrecondition: A piece is missing (UPLOAD_INCOMPLETE), or they make another file (UPLOAD_CORRUPT).
        """
        file = self._listing(project, id).find(path)
        key = f"{_folder(project, id)}{path}"
        if not self._is_there(key, file.size):
            hasher = blake3()
            with self.objects.open_write(key) as target:
                for block in self._blocks(project, id, file):
                    hasher.update(block)
                    target.write(block)
                if hasher.hexdigest() != file.digest:
                    self._remove_pieces(project, id, file)
                    raise _corrupt(file, hasher.hexdigest())
        self._remove_pieces(project, id, file)

    def _blocks(self, project: str, id: str, file: UploadFile) -> Iterator[bytes]:
        for piece in range(file.pieces):
            try:
                yield self.objects.get(_piece_key(project, id, file, piece))
            except NotFound as error:
                raise FailedPrecondition(
                    f"piece {piece} of {file.path!r} is not there yet",
                    reason="UPLOAD_INCOMPLETE",
                    metadata={"path": file.path, "piece": str(piece)},
                    action="call BeginUpload again and write what is missing",
                ) from error

    def _read_listing(self, project: str, id: str) -> Listing:
        try:
            return Listing.from_json(json.loads(self.objects.get(_listing_key(project, id))))
        except NotFound as error:
            raise NotFound(
                "this upload was never begun", reason="UPLOAD_NOT_FOUND", action="call BeginUpload with its files"
            ) from error

    def _is_there(self, key: str, size: int) -> bool:
        try:
            return self.objects.stat(key).size == size
        except NotFound:
            return False

    def _remove_pieces(self, project: str, id: str, file: UploadFile) -> None:
        for piece in range(file.pieces):
            self.objects.delete(_piece_key(project, id, file, piece))


def _check_path(path: str) -> None:
    try:
        check_key(path)
    except InvalidArgument as error:
        raise invalid_upload("files", f"the path {path!r} {error.violations[0][1]}; rename the file") from None


def _corrupt(file: UploadFile, found: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{file.path!r} came with other content than was said: it was changed while it was uploaded",
        reason="UPLOAD_CORRUPT",
        metadata={"path": file.path, "expected": file.digest, "found": found},
        action="leave the file alone and submit again",
    )


def _folder(project: str, id: str) -> str:
    return f"projects/{project}/uploads/{id}/"


def _pieces(project: str, id: str) -> str:
    return f"projects/{project}/upload-pieces/{id}/"


def _piece_key(project: str, id: str, file: UploadFile, piece: int) -> str:
    """Of the path and not of the content: the pieces of a file that is finished are removed, and it may have a twin."""
    return f"{_pieces(project, id)}{fingerprint(file.path)}/{piece:06d}"


def _listing_key(project: str, id: str) -> str:
    return f"projects/{project}/upload-listings/{id}.json"
