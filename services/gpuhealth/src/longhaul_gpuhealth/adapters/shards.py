"""Leases of shards in the database: who looks after which nodes, fenced by a term a shard."""

from __future__ import annotations

from dataclasses import dataclass, field

from longhaul_core.db import Database
from longhaul_core.db.dialects import database_now
from longhaul_core.db.leases import Lease, acquire, release, renew
from longhaul_core.db.schema import leases
from longhaul_core.db.session import Session
from longhaul_core.errors import Aborted
from sqlalchemy import delete, func, select

from longhaul_gpuhealth.domain.sharding import fair_share, shard_of

SHARD_PREFIX = "gpuhealth/shard-"
REPLICA_PREFIX = "gpuhealth/replica-"


@dataclass(frozen=True, slots=True)
class Fence:
    """Under which lease and term something is written; a write of an older term is refused."""

    lease: str
    term: int


@dataclass(frozen=True, slots=True)
class ShardChange:
    """Shards that are no longer this replica's, those it should give back, and those that it has newly."""

    lost: frozenset[int]
    surplus: frozenset[int]
    gained: frozenset[int]


@dataclass(slots=True)
class ShardLeases:
    """The shards of this replica."""

    db: Database
    holder: str
    address: str
    ttl_seconds: float
    shards: int
    owned: dict[int, Lease] = field(default_factory=dict)
    replicas: int = 1
    """How many were alive at the last `sync`, this one included."""

    def fence(self, node: str) -> Fence | None:
        """What writes about a node carry; None when it is not this replica's."""
        lease = self.owned.get(shard_of(node, self.shards))
        return None if lease is None else Fence(lease.name, lease.term)

    async def sync(self) -> ShardChange:
        """Renew what is owned and take a fair part of what is free; surplus is only named, for it is still in use."""
        before = self.owned
        held, surplus, self.replicas = await self.db.run(lambda session: self._sync(session, before))
        kept = {one for one, lease in before.items() if one in held and held[one].term == lease.term}
        lost = frozenset(before) - kept
        gained = frozenset(held) - (frozenset(before) - lost)
        self.owned = held
        return ShardChange(lost, frozenset(surplus), gained)

    async def give_back(self, shards: frozenset[int]) -> None:
        """Release shards; another replica can take them at once."""
        ended = [self.owned.pop(one) for one in shards if one in self.owned]

        def transact(session: Session) -> None:
            for lease in ended:
                release(session, lease)

        if ended:
            await self.db.run(transact)

    async def close(self) -> None:
        """Release everything and leave."""
        await self.give_back(frozenset(self.owned))
        name = REPLICA_PREFIX + self.holder
        await self.db.run(lambda session: session.execute(delete(leases).where(leases.c.name == name)).close())

    def forget(self) -> frozenset[int]:
        """Own nothing any more, because the database was out of reach for longer than the leases last."""
        shards = frozenset(self.owned)
        self.owned = {}
        return shards

    def _sync(self, session: Session, owned: dict[int, Lease]) -> tuple[dict[int, Lease], tuple[int, ...], int]:
        acquire(session, REPLICA_PREFIX + self.holder, self.holder, self.address, self.ttl_seconds)
        held = {one: kept for one, lease in owned.items() if (kept := self._renew(session, lease)) is not None}
        now = database_now(session)
        live = (leases.c.expires_at > now) & (leases.c.holder != "")
        session.execute(delete(leases).where(leases.c.name.startswith(REPLICA_PREFIX), leases.c.expires_at <= now))
        replicas = session.execute(select(func.count()).where(leases.c.name.startswith(REPLICA_PREFIX))).scalar_one()
        taken = set(
            session.execute(select(leases.c.name).where(leases.c.name.startswith(SHARD_PREFIX), live)).scalars()
        )
        free = [one for one in range(self.shards) if one not in held and SHARD_PREFIX + str(one) not in taken]
        share = fair_share(held, free, int(replicas), self.shards)
        for one in share.take:
            lease = self._acquire(session, one)
            if lease is not None:
                held[one] = lease
        return held, share.give_back, int(replicas)

    def _renew(self, session: Session, lease: Lease) -> Lease | None:
        """An expired lease that nobody took is still ours, in the same term: what is under way may be written."""
        try:
            return renew(session, lease, self.ttl_seconds)
        except Aborted:
            return None

    def _acquire(self, session: Session, shard: int) -> Lease | None:
        return acquire(session, SHARD_PREFIX + str(shard), self.holder, self.address, self.ttl_seconds)
