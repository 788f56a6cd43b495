"""Summaries of peers in the database: each replica writes its own and reads those of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from longhaul_core.clock import Clock
from longhaul_core.db import Database
from longhaul_core.db.bulk import Saved, find_many, save_many
from longhaul_core.db.resources import list_all
from longhaul_core.db.revisions import lock_revisions
from longhaul_core.db.schema import resources
from longhaul_core.db.session import Session
from pydantic import TypeAdapter
from sqlalchemy import delete

from longhaul_gpuhealth.domain.exchange import PeerSummary

KIND = "gpuhealth-peers"
NO_PROJECT = ""
KEPT = timedelta(hours=1)
"""A summary that was not written anew for so long is of a replica that is gone."""
_SUMMARY = TypeAdapter(PeerSummary)


@dataclass(slots=True)
class PeerExchange:
    """Swaps summaries with the other replicas; no clock of another machine matters."""

    db: Database
    clock: Clock
    holder: str
    _seen: dict[str, int] = field(default_factory=dict)

    async def swap(self, own: PeerSummary) -> Mapping[str, PeerSummary]:
        """Write what is known here; what others wrote since the last call, by replica."""
        now = self.clock.now()
        status: dict[str, Any] = _SUMMARY.dump_python(own, mode="json")

        def transact(session: Session) -> dict[str, tuple[int, dict[str, Any]]]:
            lock_revisions(session)
            row = find_many(session, KIND, NO_PROJECT, [self.holder]).get(self.holder)
            save_many(session, KIND, NO_PROJECT, [Saved(self.holder, "", status, row)], [], now)
            gone = (resources.c.kind == KIND) & (resources.c.updated_at < now - KEPT)
            session.execute(delete(resources).where(gone))
            found = list_all(session, KIND, project=NO_PROJECT)
            return {one.id: (one.revision, one.status) for one in found if one.id != self.holder}

        found = await self.db.run(transact)
        new = {one: status for one, (revision, status) in found.items() if self._seen.get(one) != revision}
        self._seen = {one: revision for one, (revision, _) in found.items()}
        return {one: _SUMMARY.validate_python(status) for one, status in new.items()}

    async def leave(self) -> None:
        """Take the own summary away."""
        mine = (resources.c.kind == KIND) & (resources.c.id == self.holder)
        await self.db.run(lambda session: session.execute(delete(resources).where(mine)).close())
