"""Damage that a reader found and read around."""

from __future__ import annotations

from dataclasses import dataclass

from longhaul_ingest.domain.documents import Record


@dataclass(frozen=True, slots=True)
class Damage:
    """Where and what; shown to the user as `file, byte offset: problem`."""

    label: str
    offset: int
    problem: str

    def __str__(self) -> str:
        return f"{self.label}, byte {self.offset}: {self.problem}"


Found = Record | Damage
