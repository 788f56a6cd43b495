"""What the loop of a replica works with, and how."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from longhaul_core.clock import Clock
from longhaul_core.db import Database
from longhaul_core.engine import Engine
from longhaul_core.failpoints import Failpoints
from longhaul_core.objects import ObjectStore

from longhaul_ingest.adapters.measures import IngestMeasures


@dataclass(frozen=True, slots=True)
class World:
    """The parts that others own."""

    db: Database
    objects: ObjectStore
    engine: Engine
    clock: Clock
    measures: IngestMeasures
    failpoints: Failpoints
    stop: asyncio.Event


@dataclass(frozen=True, slots=True)
class Limits:
    """How the loop works.

    Attributes:
        owner: Name of this replica, new with each start.
        store_url: Where workers write parts.
        lease_seconds: After it a silent replica's shards are taken over.
        shard_attempts: A shard that kills its worker so often is set aside.
        poll_seconds: Between looks for work.
    """

    owner: str
    store_url: str
    lease_seconds: float
    shard_attempts: int
    poll_seconds: float
