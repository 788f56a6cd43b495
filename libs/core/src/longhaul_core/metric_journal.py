"""Where rank 0's metric rows lie until the controller has them.

Rank 0 writes the rows up to a checkpoint before it commits the checkpoint, so that a run that goes on from there
has the rows of every step, even if agents and controller died together. Each object is a serialized
`longhaul.training.v1.StepMetricsBatch`; the controller deletes it once its rows are committed.

Keys: projects/{project}/runs/{run}/journal/{first position}-{last position}-e{epoch}.rows. A position is the number of
steps made, those included that a rewind threw away: unlike the step it never goes back within an epoch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_KEY = re.compile(r"/journal/(\d+)-(\d+)-e(\d+)\.rows$")


@dataclass(frozen=True, slots=True, order=True)
class JournalSpan:
    """The positions whose rows one object holds, both ends included, and the epoch that made them."""

    first: int
    last: int
    epoch: int

    def key(self, project: str, run_id: str) -> str:
        """Its key in the object store."""
        span = f"{self.first:010d}-{self.last:010d}-e{self.epoch:06d}"
        return f"{journal_prefix(project, run_id)}{span}.rows"

    @staticmethod
    def parse(key: str) -> JournalSpan | None:
        """The span that a key names; None for another object."""
        match = _KEY.search(key)
        return JournalSpan(int(match[1]), int(match[2]), int(match[3])) if match else None


def journal_prefix(project: str, run_id: str) -> str:
    """Prefix of a run's journal, with its closing slash."""
    return f"projects/{project}/runs/{run_id}/journal/"
