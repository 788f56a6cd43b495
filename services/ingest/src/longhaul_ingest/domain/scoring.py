"""The filter by a quality classifier; light to import, the classifier itself is loaded by workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from longhaul_ingest.domain.features import Features
    from longhaul_ingest.domain.refusal import Refusal


@dataclass(frozen=True, slots=True)
class Quality:
    """Notes the score of the user's classifier, and refuses what is below a score or a percentile of its sample."""

    name: ClassVar[str] = "quality"

    model: str = ""
    min_score: float | None = None
    min_percentile: float | None = None

    def refusals(self, text: Features) -> Iterator[Refusal]:
        """A score below the threshold."""
        from longhaul_ingest.domain.quality import quality_refusals

        return quality_refusals(text, self.model, self.min_score, self.min_percentile)
