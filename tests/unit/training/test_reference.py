"""A run against its reference."""

from __future__ import annotations

import pytest
from longhaul_training.domain.reference import equal_tokens, measure_gap, step_at


def test_reference_is_looked_at_where_it_had_seen_as_many_tokens() -> None:
    assert step_at(5_000, made_steps=100, made_tokens=10_000) == 50
    assert step_at(20_000, made_steps=100, made_tokens=10_000) == 0


def test_equal_flops_give_a_smaller_reference_more_tokens() -> None:
    assert equal_tokens(1_000, "tokens", 3_000_000, 1_000_000) == 1_000
    assert equal_tokens(1_000, "flops", 3_000_000, 1_000_000) == 3_000


def test_gap_needs_enough_steps_of_both() -> None:
    gap = measure_gap([2.1] * 20, [2.0] * 20, 5)
    assert gap is not None
    assert gap.behind == pytest.approx(0.1)
    assert measure_gap([2.1] * 20, [2.0] * 3, 5) is None
