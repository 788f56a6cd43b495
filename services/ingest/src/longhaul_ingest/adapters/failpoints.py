"""Where a test may let the service die."""

from __future__ import annotations

from enum import StrEnum


class Point(StrEnum):
    """Moments of an ingestion, each between two durable steps."""

    PLANNED = "ingest.planned"
    SHARD_WORKED = "ingest.shard-worked"
    SHARD_RECORDED = "ingest.shard-recorded"
    BEFORE_MANIFEST = "ingest.before-manifest"
    AFTER_MANIFEST = "ingest.after-manifest"
