"""The database of a service: SQLite on one machine, PostgreSQL where several replicas share it."""

from longhaul_core.db.database import Database
from longhaul_core.db.events import EventRow
from longhaul_core.db.leases import Lease
from longhaul_core.db.queue import Claim, ItemFailure, QueueCounts
from longhaul_core.db.resources import Page, ResourceRow

__all__ = ["Claim", "Database", "EventRow", "ItemFailure", "Lease", "Page", "QueueCounts", "ResourceRow"]
