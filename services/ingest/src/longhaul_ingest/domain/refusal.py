"""A rule that a text does not meet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """A rule that a text does not meet: what was measured and what was allowed, or what was seen."""

    rule: str
    measured: float
    threshold: float
    seen: str = ""

    @property
    def detail(self) -> str:
        """For a person: the measured value and the threshold, or what was seen."""
        return self.seen or f"{self.measured:.4g}, limit {self.threshold:.4g}"


def above(rule: str, measured: float, threshold: float | None) -> Iterator[Refusal]:
    """A refusal where the measure is above the threshold; None is no threshold."""
    if threshold is not None and measured > threshold:
        yield Refusal(rule, measured, threshold)


def below(rule: str, measured: float, threshold: float | None) -> Iterator[Refusal]:
    """A refusal where the measure is below the threshold; None is no threshold."""
    if threshold is not None and measured < threshold:
        yield Refusal(rule, measured, threshold)
