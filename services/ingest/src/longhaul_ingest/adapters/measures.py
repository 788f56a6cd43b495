"""The service's metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from longhaul_core.metrics import Metrics

from longhaul_ingest.domain.documents import Outcome
from longhaul_ingest.domain.tally import Tally

SHARD_SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


class IngestMeasures:
    """Counters of what this replica worked off."""

    def __init__(self, metrics: Metrics) -> None:
        self._records = metrics.counter("records", "Records by outcome.", ("outcome",))
        self._refused = metrics.counter("refused_records", "Records not kept, by rule.", ("outcome", "rule"))
        self._bytes = metrics.counter("source_bytes", "Bytes of sources that were read.")
        self._text = metrics.counter("text_bytes", "Bytes of text that were kept.")
        self._damages = metrics.counter("damages", "Damaged places that were read around.")
        self._seconds = metrics.histogram("shard_seconds", "Time of the work on one shard.", buckets=SHARD_SECONDS)
        self.active_shards = metrics.gauge("active_shards", "Shards in work in this replica.")
        self.deaths = metrics.counter("worker_deaths", "Workers that died under a shard.")
        self.ended = metrics.counter("ingestions", "Ingestions that ended.", ("state", "reason"))

    def shard_done(self, result: Mapping[str, Any]) -> None:
        """Count one shard."""
        tally = Tally.from_dict(result["tally"])
        for outcome in Outcome:
            self._records.labels(outcome.value).inc(tally.total(outcome))
        for (_, outcome, rule), count in tally.refused.items():
            self._refused.labels(outcome.value, rule).inc(count)
        self._bytes.inc(tally.bytes_read)
        self._text.inc(tally.text_bytes.total())
        self._damages.inc(tally.damage_count)
        self._seconds.observe(result["seconds"])
