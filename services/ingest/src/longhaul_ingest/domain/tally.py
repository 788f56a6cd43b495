"""Counts of an ingestion: additive, so that shards are counted apart and summed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from longhaul_core.errors import Internal

from longhaul_ingest.domain.documents import Outcome

MAXIMUM_DAMAGES = 100
"""Damages named one by one; further ones are counted only."""


@dataclass(slots=True)
class Tally:
    """What became of the records, by source where it matters."""

    read: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    text_bytes: Counter[str] = field(default_factory=Counter)
    refused: Counter[tuple[str, Outcome, str]] = field(default_factory=Counter)
    bytes_read: int = 0
    damages: list[str] = field(default_factory=list)
    damage_count: int = 0

    def keep(self, source: str, text_bytes: int) -> None:
        """Count a document that was kept."""
        self.read += 1
        self.kept[source] += 1
        self.text_bytes[source] += text_bytes

    def refuse(self, source: str, outcome: Outcome, rule: str) -> None:
        """Count a record that was dropped or failed."""
        self.read += 1
        self.refused[source, outcome, rule] += 1

    def damage(self, description: str) -> None:
        """Name damage that was read around."""
        self.damage_count += 1
        if len(self.damages) < MAXIMUM_DAMAGES:
            self.damages.append(description)

    def total(self, outcome: Outcome, source: str | None = None) -> int:
        """Records with an outcome, of one source or all."""
        if outcome is Outcome.KEPT:
            return self.kept.total() if source is None else self.kept[source]
        return sum(count for (at, of, _), count in self.refused.items() if of is outcome and source in (None, at))

    def records(self, source: str) -> int:
        """Records read from one source."""
        return sum(self.total(outcome, source) for outcome in Outcome)

    def reasons(self, source: str | None = None, outcome: Outcome | None = None) -> dict[str, int]:
        """Records refused by rule, the most frequent first."""
        found: Counter[str] = Counter()
        for (at, of, rule), count in self.refused.items():
            if source in (None, at) and outcome in (None, of):
                found[rule] += count
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def check(self) -> None:
        """Raise Internal (COUNTS_DIFFER) unless read = kept + dropped + failed."""
        ends = sum(self.total(outcome) for outcome in Outcome)
        if self.read != ends:
            raise Internal(f"{self.read} records were read, {ends} have an end", reason="COUNTS_DIFFER")

    def add(self, other: Tally) -> None:
        """Add the counts of another part."""
        self.read += other.read
        self.kept += other.kept
        self.text_bytes += other.text_bytes
        self.refused += other.refused
        self.bytes_read += other.bytes_read
        self.damage_count += other.damage_count
        self.damages = [*self.damages, *other.damages][:MAXIMUM_DAMAGES]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "read": self.read,
            "kept": dict(self.kept),
            "text_bytes": dict(self.text_bytes),
            "refused": [[source, outcome.value, rule, n] for (source, outcome, rule), n in self.refused.items()],
            "bytes_read": self.bytes_read,
            "damages": self.damages,
            "damage_count": self.damage_count,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        return cls(
            read=data["read"],
            kept=Counter(data["kept"]),
            text_bytes=Counter(data["text_bytes"]),
            refused=Counter({(source, Outcome(outcome), rule): n for source, outcome, rule, n in data["refused"]}),
            bytes_read=data["bytes_read"],
            damages=list(data["damages"]),
            damage_count=data["damage_count"],
        )

    @classmethod
    def sum(cls, tallies: Iterable[Mapping[str, Any]]) -> Self:
        """The sum of tallies given as plain values, in order."""
        whole = cls()
        for data in tallies:
            whole.add(cls.from_dict(data))
        return whole
