"""A run that kept 100,000 checkpoints: how long the service takes for a page of them and for the latest, over gRPC."""

from __future__ import annotations

import statistics
import time
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from longhaul.checkpoint.v1 import checkpoint_pb2 as pb
from longhaul.checkpoint.v1.checkpoint_pb2_grpc import CheckpointServiceStub
from longhaul.common.v1.resource_pb2 import ObjectReference
from longhaul_checkpoint.adapters.records import CHECKPOINT_KIND
from longhaul_checkpoint.app import build
from longhaul_checkpoint.settings import CheckpointSettings
from longhaul_core.db import Database, ResourceRow
from longhaul_core.db.schema import counters
from longhaul_core.db.schema import resources as table
from longhaul_core.db.session import Session
from longhaul_core.logging import configure_logging
from longhaul_core.manifests import put_part
from longhaul_core.objects import open_store
from longhaul_core.rpc.client import connect
from longhaul_core.rpc.server import running_service
from sqlalchemy import insert, select, update

ROWS, CALLS = 100_000, 200
RUN = "projects/demo/trainingRuns/r1"


async def measure(folder: Path) -> dict[str, float]:
    """Median seconds of each call, by its name."""
    configure_logging("checkpoint", "error")
    quiet = {"retention_interval_seconds": 1e6, "scrub_interval_seconds": 1e6, "log_level": "error"}
    settings = CheckpointSettings(data_dir=folder, listen_address="127.0.0.1:0", metrics_address="", **quiet)
    async with running_service(settings, build) as address, connect(address) as channel:
        await _save_last(CheckpointServiceStub(channel), settings)
    _copy_rows(settings)
    page = pb.ListCheckpointsRequest(parent="projects/demo", training_run=RUN, page_size=50)
    latest = pb.GetLatestCheckpointRequest(training_run=RUN)
    async with running_service(settings, build) as address, connect(address) as channel:
        stub = CheckpointServiceStub(channel)
        found: dict[str, list[float]] = {"list": [], "latest": []}
        for _ in range(CALLS):
            for name, call, request in (
                ("list", stub.ListCheckpoints, page),
                ("latest", stub.GetLatestCheckpoint, latest),
            ):
                began = time.perf_counter()
                answer = await call(request)
                found[name].append(time.perf_counter() - began)
                assert name == "list" or answer.step == ROWS
    return {name: statistics.median(seconds) for name, seconds in found.items()}


async def _save_last(stub: CheckpointServiceStub, settings: CheckpointSettings) -> None:
    begun = await stub.BeginCheckpoint(pb.BeginCheckpointRequest(training_run=RUN, step=ROWS, epoch=1, world_size=1))
    part = put_part(open_store(settings.resolved_object_store_url), begun.prefix + "state.json", b"{}")
    reference = ObjectReference(
        key=part.key, size_bytes=part.size, digest=part.digest, digest_algorithm=part.digest_algorithm
    )
    await stub.CommitCheckpoint(pb.CommitCheckpointRequest(name=begun.metadata.name, epoch=1, parts=[reference]))


def _copy_rows(settings: CheckpointSettings) -> None:
    """The one committed checkpoint, step by step, as a run of many years would have left them."""
    db = Database.open(settings.resolved_database_url)
    names = [field.name for field in fields(ResourceRow)]

    def copy(session: Session) -> None:
        found = session.execute(select(*(table.c[name] for name in names)).where(table.c.kind == CHECKPOINT_KIND)).one()
        template = ResourceRow(**found._mapping)
        copies = [_copied(template, number) for number in range(1, ROWS)]
        session.execute(insert(table), [{name: getattr(row, name) for name in names} for row in copies])
        session.execute(update(counters).where(counters.c.name == "revision").values(value=ROWS + 100))

    db.run_sync(copy)
    db.close()


def _copied(template: ResourceRow, number: int) -> ResourceRow:
    return replace(
        template,
        id=f"r1-step-{number:08d}-e1",
        uid=f"{number:032x}",
        revision=number + 50,
        spec={**template.spec, "step": number},
        status={"commitment": {**template.status["commitment"], "previous": ""}},
        created_at=datetime(2025, 1, 1, tzinfo=UTC) + timedelta(minutes=number),
    )
