"""What ingest is told: sources and cleaning."""

from enum import StrEnum

from pydantic import Field, NonNegativeInt

from longhaul_core.recipe.section import Section


class SourceKind(StrEnum):
    """The format of a source."""

    WARC = "warc"
    WET = "wet"
    HTML = "html"
    JSONL = "jsonl"
    PARQUET = "parquet"
    TEXT = "text"
    CODE = "code"


class SourceConfig(Section):
    """One place that documents come from."""

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
    kind: SourceKind
    path: str | list[str] = Field(description="file, folder or glob, relative to the recipe; or an s3:// location")
    text_field: str = "text"
    url_field: str = "url"
    extensions: list[str] = Field(default_factory=list, description="file endings to read; empty: the kind's own")

    @property
    def paths(self) -> list[str]:
        """All locations, also when only one was given."""
        return [self.path] if isinstance(self.path, str) else self.path


class ExtractionMode(StrEnum):
    """How text is taken from HTML."""

    QUALITY = "quality"
    FAST = "fast"


class FilterConfig(Section):
    """A named filter and the thresholds that differ from the published defaults."""

    name: str
    parameters: dict[str, float | int | bool | str | list[str]] = Field(default_factory=dict)


DEFAULT_FILTERS = (FilterConfig(name="gopher_repetition"), FilterConfig(name="gopher_quality"))


class CleaningConfig(Section):
    """Extraction and filters."""

    extraction: ExtractionMode = ExtractionMode.QUALITY
    filters: list[FilterConfig] = Field(default_factory=lambda: list(DEFAULT_FILTERS))
    maximum_failed_fraction: float = Field(0.05, ge=0, le=1, description="more unreadable records fail the ingestion")
    drop_samples: NonNegativeInt = Field(5, description="documents kept as a sample of each rule")
