"""Identity of a pod's agent: a token bound to run, slot and incarnation.

Where callers are asked who they are, all services have the key; else it is random, made once and kept in the database,
so that every replica checks the same tokens.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime

from longhaul_core.db import Database, resources
from longhaul_core.db.session import Session
from longhaul_core.rpc.pod_tokens import PodClaim, PodTokens

KIND = "training-key"


class PodIdentity:
    """Issues and checks pod tokens; `shared_key` signs them where other services check them too."""

    def __init__(self, key: bytes, shared_key: bytes = b"") -> None:
        self._key = key
        self._tokens = PodTokens(shared_key or key)

    @property
    def installation(self) -> str:
        """Name of this database's installation: the same for every replica, another one for any other database."""
        return hashlib.sha256(b"installation/" + self._key).hexdigest()[:16]

    def issue(self, run: str, run_uid: str, slot: int, incarnation: int) -> str:
        """The token of a pod; `run` is the full name of its training run."""
        return self._tokens.issue(PodClaim(run, run_uid, slot, incarnation))

    def accepts(self, token: str, run_uid: str, slot: int, incarnation: int) -> bool:
        """Whether `token` is that pod's."""
        claim = self._tokens.read(token)
        return claim is not None and (claim.run_uid, claim.slot, claim.incarnation) == (run_uid, slot, incarnation)


async def load_identity(db: Database, now: datetime, shared_key: bytes = b"") -> PodIdentity:
    """Reads the database's key, making it at the first start; replicas that race agree on one."""

    def transact(session: Session) -> str:
        row, _ = resources.create(
            session,
            kind=KIND,
            project="",
            id="pods",
            spec={},
            state="READY",
            status={"key": secrets.token_hex(32)},
            fingerprint="pods",
            now=now,
        )
        return str(row.status["key"])

    return PodIdentity(bytes.fromhex(await db.run(transact)), shared_key)
