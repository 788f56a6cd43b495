"""The RPCs by which files of a user's machine come into the object store."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from longhaul.ingest.v1 import upload_pb2, upload_pb2_grpc
from longhaul_core.ids import Collection, parse_name, parse_parent

from longhaul_ingest.adapters.uploads import Uploads
from longhaul_ingest.domain.upload import PIECE_BYTES, Listing, UploadFile

Context = grpc.aio.ServicerContext[Any, Any]


class UploadServicer(upload_pb2_grpc.UploadServiceServicer):
    """`longhaul.ingest.v1.UploadService`."""

    def __init__(self, uploads: Uploads, maximum_bytes: int) -> None:
        self._uploads = uploads
        self._maximum_bytes = maximum_bytes

    async def BeginUpload(
        self, request: upload_pb2.BeginUploadRequest, context: Context
    ) -> upload_pb2.BeginUploadResponse:
        project = parse_parent(request.parent)
        files = [UploadFile(file.path, file.size, file.digest) for file in request.files]
        listing = Listing.of(files, self._maximum_bytes)
        missing = await asyncio.to_thread(self._uploads.begin, project, listing)
        return upload_pb2.BeginUploadResponse(
            name=f"projects/{project}/{Collection.UPLOADS}/{listing.id}",
            location=self._uploads.location(project, listing.id),
            missing=[upload_pb2.MissingPieces(path=path, pieces=pieces) for path, pieces in missing.items()],
            piece_bytes=PIECE_BYTES,
        )

    async def WriteUpload(
        self, request: upload_pb2.WriteUploadRequest, context: Context
    ) -> upload_pb2.WriteUploadResponse:
        name = parse_name(request.name, Collection.UPLOADS)
        await asyncio.to_thread(self._uploads.write, name.project, name.id, request.path, request.piece, request.data)
        return upload_pb2.WriteUploadResponse()

    async def FinishUpload(
        self, request: upload_pb2.FinishUploadRequest, context: Context
    ) -> upload_pb2.FinishUploadResponse:
        name = parse_name(request.name, Collection.UPLOADS)
        await asyncio.to_thread(self._uploads.finish, name.project, name.id, request.path)
        return upload_pb2.FinishUploadResponse()
