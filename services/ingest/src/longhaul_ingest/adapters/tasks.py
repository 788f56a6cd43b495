"""What the engine runs in worker processes. Light to import: the libraries that do the work load in workers only."""

from __future__ import annotations

from typing import Any, Final

WORKER_MODULE: Final = "longhaul_ingest.adapters.shard_work"
"""Imported by each worker before its first task."""


def run_shard(payload: dict[str, Any]) -> dict[str, Any]:
    """Work on one shard; see `shard_work.work_on_shard`."""
    from longhaul_ingest.adapters.shard_work import work_on_shard

    return work_on_shard(payload)
