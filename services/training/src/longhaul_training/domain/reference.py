"""A run against its reference: the loss of both where they have seen as many tokens, or spent as many FLOPs. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

BEHIND = "BEHIND_REFERENCE"
DEFAULT_MARGIN = 0.05
WINDOW_STEPS = 64
# A gap counts from this many steps on: the loss of single steps says nothing.
LEAST_STEPS = 16


@dataclass(frozen=True, slots=True)
class Gap:
    """Mean losses over the last steps of a run and over the reference's steps at the same tokens."""

    loss: float
    reference: float
    tokens: int

    @property
    def behind(self) -> float:
        """By how much the run's loss is above the reference's; negative where it is ahead."""
        return self.loss - self.reference


def equal_tokens(tokens: int, basis: str, parameters: int, reference_parameters: int) -> int:
    """Tokens at which the reference is looked at: as many, or those that cost it the same FLOPs (6·N a token)."""
    if basis != "flops" or not reference_parameters:
        return tokens
    return int(tokens * parameters / reference_parameters)


def step_at(tokens: int, made_steps: int, made_tokens: int) -> int:
    """The step at which a run had seen `tokens`; 0 when it has not got there."""
    return round(tokens * made_steps / made_tokens) if 0 < tokens <= made_tokens else 0


def measure_gap(losses: Sequence[float], reference: Sequence[float], tokens: int) -> Gap | None:
    """The gap, where both have enough steps."""
    if min(len(losses), len(reference)) < LEAST_STEPS:
        return None
    return Gap(statistics.fmean(losses), statistics.fmean(reference), tokens)
