"""Which replica looks after which node: nodes hash into shards, shards are leased in fair parts. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass


def shard_of(node: str, shards: int) -> int:
    """The shard of a node; the same on every replica and after every restart."""
    return zlib.crc32(node.encode()) % shards


@dataclass(frozen=True, slots=True)
class Share:
    """What a replica should do about its shards: take free ones, give surplus ones back."""

    take: tuple[int, ...]
    give_back: tuple[int, ...]


def fair_share(owned: Iterable[int], free: Iterable[int], replicas: int, shards: int) -> Share:
    """Move one replica towards its fair part, at most one shard more than any other's."""
    mine = sorted(owned)
    most = -(-shards // max(1, replicas))
    if len(mine) > most:
        return Share((), tuple(mine[most:]))
    return Share(tuple(sorted(free)[: most - len(mine)]), ())
