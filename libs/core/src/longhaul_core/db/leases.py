"""Leases: one holder a name, fenced by a term, judged by the database's clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import bindparam, select, update

from longhaul_core.db.dialects import database_now, insert_for
from longhaul_core.db.prepared import Prepared
from longhaul_core.db.schema import leases
from longhaul_core.db.session import Session
from longhaul_core.errors import Aborted

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
_HELD = Prepared(
    select(leases.c.term, leases.c.holder).where(leases.c.name == bindparam("of_name")).with_for_update(read=True)
)


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds a name. `term` rises with each new holder; a write of an older term is refused."""

    name: str
    term: int
    holder: str
    address: str
    expires_at: datetime


def acquire(session: Session, name: str, holder: str, address: str, ttl_seconds: float) -> Lease | None:
    """Take a lease that is free or expired, or renew one's own; None while another holds it.

    Args:
        session: The transaction.
        name: What is held.
        holder: Unique to this process's life: a restarted holder is another one.
        address: Where the holder is reached.
        ttl_seconds: How long it holds without `renew`.
    """
    current = _locked(session, name)
    now = database_now(session)
    if current.holder == holder and current.expires_at > now:
        return _hold(session, current.term, name, holder, address, now, ttl_seconds)
    if current.holder and current.expires_at > now:
        return None
    return _hold(session, current.term + 1, name, holder, address, now, ttl_seconds)


def renew(session: Session, lease: Lease, ttl_seconds: float) -> Lease:
    """Hold on for another `ttl_seconds` from now.

    Raises:
        Aborted: Another holder took over (STALE_TERM).
    """
    check_term(session, lease.name, lease.term)
    return _hold(session, lease.term, lease.name, lease.holder, lease.address, database_now(session), ttl_seconds)


def release(session: Session, lease: Lease) -> None:
    """Give a lease back, so that another can take it at once; nothing happens where it is lost already."""
    session.execute(
        update(leases)
        .where(leases.c.name == lease.name, leases.c.term == lease.term, leases.c.holder == lease.holder)
        .values(holder="", address="", expires_at=_NEVER)
    )


def find(session: Session, name: str) -> Lease | None:
    """Return the lease of a name as it stands, expired or not, or None where nobody holds it."""
    found = session.execute(select(leases).where(leases.c.name == name)).one_or_none()
    return Lease(**found._mapping) if found and found.holder else None


def check_term(session: Session, name: str, term: int) -> None:
    """Let a transaction go on only while a term is the newest; no other can begin before the transaction ends.

    Raises:
        Aborted: The term is over (STALE_TERM).
    """
    found = _HELD.first(session, {"of_name": name})
    newest, holder = found if found is not None else (0, "")
    if newest != term or not holder:
        raise Aborted(
            f"term {term} of {name!r} is over",
            reason="STALE_TERM",
            metadata={"lease": name, "term": str(term), "newest_term": str(newest)},
            action="stop acting for this term",
        )


def _locked(session: Session, name: str) -> Lease:
    """Return the lease's row, made where missing, locked until the transaction ends."""
    vacant = {"name": name, "term": 0, "holder": "", "address": "", "expires_at": _NEVER}
    session.execute(insert_for(session, leases).values(vacant).on_conflict_do_nothing())
    found = session.execute(select(leases).where(leases.c.name == name).with_for_update()).one()
    return Lease(**found._mapping)


def _hold(
    session: Session, term: int, name: str, holder: str, address: str, now: datetime, ttl_seconds: float
) -> Lease:
    lease = Lease(name, term, holder, address, now + timedelta(seconds=ttl_seconds))
    session.execute(
        update(leases)
        .where(leases.c.name == name)
        .values(term=term, holder=holder, address=address, expires_at=lease.expires_at)
    )
    return lease
