"""An ingestion as ingest stores it: what was asked for, and what is known of its progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Self

from longhaul_core.errors import InvalidArgument, LonghaulError
from longhaul_core.ids import fingerprint
from longhaul_core.recipe import CleaningConfig, Section, SourceConfig
from pydantic import Field

from longhaul_ingest.domain.filters import build_filter
from longhaul_ingest.domain.planning import SourceFile
from longhaul_ingest.domain.tally import Tally

INGESTION: Final = "ingestion"
DATASET: Final = "dataset"
PIPELINE_VERSION: Final = 2
"""Part of every fingerprint; raised when the same sources and settings would give other documents."""


class JobState(StrEnum):
    """Where an ingestion is."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


ACTIVE: Final = (JobState.QUEUED, JobState.RUNNING, JobState.CANCELLING)
TERMINAL: Final = frozenset(JobState) - frozenset(ACTIVE)


class IngestionSpec(Section):
    """What an ingestion does."""

    sources: list[SourceConfig]
    cleaning: CleaningConfig = CleaningConfig()
    continues: list[str] = Field(default_factory=list)

    def check(self) -> None:
        """Raise InvalidArgument with all violations, unless sources and filters make sense."""
        violations: list[tuple[str, str]] = []
        names = [source.name for source in self.sources]
        if not names:
            violations.append(("spec.sources", "at least one source is needed"))
        for index, source in enumerate(self.sources):
            if names.index(source.name) != index:
                violations.append((f"spec.sources[{index}].name", f"{source.name!r} is used twice"))
            if not (source.paths or source.lists) or not all((*source.paths, *source.lists)):
                violations.append((f"spec.sources[{index}].locations", "at least one location is needed, none empty"))
        for index, item in enumerate(self.cleaning.filters):
            try:
                build_filter(item.name, item.parameters, f"spec.filters[{index}]")
            except InvalidArgument as error:
                violations.extend(error.violations)
        if violations:
            text = "; ".join(f"{path}: {problem}" for path, problem in violations)
            raise InvalidArgument(text, reason="SPEC_INVALID", violations=violations)


def summarize_files(files: Mapping[str, Sequence[SourceFile]]) -> dict[str, dict[str, Any]]:
    """What identifies the files of each source: their number, bytes, and a digest of names, sizes and versions."""
    return {
        name: {
            "files": len(listed),
            "bytes": sum(file.size for file in listed),
            "digest": fingerprint([[file.path, file.size, file.version] for file in listed]),
        }
        for name, listed in files.items()
    }


def ingestion_fingerprint(spec: Mapping[str, Any]) -> str:
    """Identity of what an ingestion makes: settings, files and the version of the rules."""
    return fingerprint({"spec": dict(spec), "version": PIPELINE_VERSION})


def dataset_prefix(project: str, id: str, mark: str) -> str:
    """Where the objects of a dataset lie."""
    return f"projects/{project}/datasets/{id}/{mark[:12]}"


def manifest_key(prefix: str) -> str:
    """The key whose existence is the commit."""
    return f"{prefix}/manifest.json"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an ingestion is in its state, for a person."""

    code: str
    message: str
    action: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, error: LonghaulError) -> Self:
        """The reason that an error gives."""
        return cls(error.reason, error.message, error.action, dict(error.metadata))


@dataclass(frozen=True, slots=True)
class IngestionStatus:
    """What became of an ingestion so far.

    Attributes:
        attempt: Counts restarts after failure or cancel.
        restarted_by: The request that made the last restart.
        tally: Counts of the shards that are done.
        live: Counts of the shards in work, by index.
        deaths: How often the work on a shard killed its worker, by index.
        lost: Shards that were set aside, in words.
        rate: Bytes a second of the sources, lately.
    """

    attempt: int = 1
    restarted_by: str = ""
    reason: Reason | None = None
    tally: Mapping[str, Any] = field(default_factory=lambda: Tally().to_dict())
    live: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    deaths: Mapping[str, int] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    shards_done: int = 0
    shards_total: int = 0
    bytes_total: int = 0
    rate: float = 0.0
    started_at: str = ""
    ended_at: str = ""

    @property
    def bytes_done(self) -> int:
        """Bytes of the sources that are worked off, those of shards in work included."""
        return int(self.tally["bytes_read"]) + sum(int(part["bytes"]) for part in self.live.values())

    @property
    def eta_seconds(self) -> float | None:
        """Seconds to go at the present rate; None while unknown."""
        return (self.bytes_total - self.bytes_done) / self.rate if self.rate > 0 else None

    def live_count(self, outcome: str) -> int:
        """Records of shards in work that met an outcome."""
        return sum(int(part[outcome]) for part in self.live.values())

    def ended(self, now: datetime, reason: Reason | None = None) -> IngestionStatus:
        """The status of a terminal state."""
        return replace(self, reason=reason, live={}, rate=0.0, ended_at=now.isoformat())

    def with_shard(self, index: int, tally: Mapping[str, Any]) -> IngestionStatus:
        """The status after one more shard."""
        live = {key: value for key, value in self.live.items() if key != str(index)}
        return replace(
            self, tally=Tally.sum([self.tally, tally]).to_dict(), live=live, shards_done=self.shards_done + 1
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        reason = Reason(**data["reason"]) if data["reason"] else None
        return cls(**{**data, "reason": reason, "lost": tuple(data["lost"])})
