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
    CSV = "csv"
    ARROW = "arrow"
    MARKDOWN = "markdown"
    EPUB = "epub"
    PDF = "pdf"


class SourceConfig(Section):
    """One place that documents come from."""

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
    kind: SourceKind
    path: str | list[str] = Field(
        default_factory=list, description="files, folders or globs, relative to the recipe; s3:// or https:// locations"
    )
    lists: list[str] = Field(default_factory=list, description="text files with one location a line")
    list_base: str = Field("", description="put before the lines of `lists` that are no whole location")
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
    fix_text: bool = Field(True, description="repair mojibake and entities (ftfy) and normalise to NFC")
    annotate: bool = Field(False, description="keep every document and record what each rule would do")
    filters: list[FilterConfig] = Field(default_factory=lambda: list(DEFAULT_FILTERS))
    maximum_failed_fraction: float = Field(0.05, ge=0, le=1, description="more unreadable records fail the ingestion")
    drop_samples: NonNegativeInt = Field(5, description="documents kept as a sample of each rule")
    maximum_lost_shards: NonNegativeInt = Field(0, description="shards set aside before the ingestion fails")
