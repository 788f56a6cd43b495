"""Identity of a pod's agent: a token bound to run, slot and incarnation.

token = HMAC-SHA256(key, run uid / slot / incarnation). The key is random, made once and kept in the database, so that
every replica checks the same tokens and a token says nothing about another pod's.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import datetime

from longhaul_core.db import Database, resources
from sqlalchemy.orm import Session

KIND = "training-key"


class PodIdentity:
    """Issues and checks pod tokens."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @property
    def installation(self) -> str:
        """Name of this database's installation: the same for every replica, another one for any other database."""
        return hashlib.sha256(b"installation/" + self._key).hexdigest()[:16]

    def issue(self, run_uid: str, slot: int, incarnation: int) -> str:
        """The token of a pod."""
        message = f"{run_uid}/{slot}/{incarnation}".encode()
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()

    def accepts(self, token: str, run_uid: str, slot: int, incarnation: int) -> bool:
        """Whether `token` is that pod's; takes the same time for any wrong one."""
        return hmac.compare_digest(token.encode(), self.issue(run_uid, slot, incarnation).encode())


async def load_identity(db: Database, now: datetime) -> PodIdentity:
    """Reads the key, making it at the first start; replicas that race agree on one."""

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

    return PodIdentity(bytes.fromhex(await db.run(transact)))
