"""Exports as tasks of the training service, which alone creates pods."""

from __future__ import annotations

import grpc
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from longhaul.training.v1 import task_pb2, task_pb2_grpc
from longhaul_core.errors import InvalidArgument
from longhaul_core.ids import fingerprint
from longhaul_core.rpc.client import rpc_errors
from longhaul_core.tasks import ExportArguments, ManifestReference

from longhaul_checkpoint.domain.checkpoint import Checkpoint

FORMAT = "huggingface"


class Exporter:
    """Asks training for export tasks."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._tasks = task_pb2_grpc.TaskServiceStub(channel)

    async def start(self, checkpoint: Checkpoint, export_format: str) -> tuple[str, str]:
        """Start the export of a checkpoint, or find the one that runs; returns the task's name and the files' prefix.

        Raises:
            InvalidArgument: another format than `huggingface`.
            LonghaulError: what training answered.
        """
        if export_format not in ("", FORMAT):
            raise InvalidArgument(f"{export_format!r} is no export format", violations=[("format", f"known: {FORMAT}")])
        identity, commitment = checkpoint.identity, checkpoint.committed
        mark = fingerprint([identity.name, commitment.digest, FORMAT])[:12]
        prefix = f"projects/{identity.project}/exports/{identity.id}/{mark}/"
        arguments = ExportArguments(
            checkpoint=ManifestReference(
                name=identity.name, manifest_key=identity.manifest_key, digest=commitment.digest
            ),
            format=FORMAT,
            prefix=prefix,
        )
        request = task_pb2.CreateTaskRequest(
            parent=f"projects/{identity.project}",
            task_id=f"export-{mark}",
            spec=task_pb2.TaskSpec(
                kind=task_pb2.TASK_KIND_EXPORT,
                arguments=json_format.ParseDict(arguments.model_dump(mode="json"), Struct()),
                result_key=f"{prefix}result.json",
                retries=2,
            ),
        )
        with rpc_errors():
            task = await self._tasks.CreateTask(request)
        return task.metadata.name, prefix
