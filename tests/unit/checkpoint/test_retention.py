"""Retention marks what the policy says, and never what must stay."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longhaul_checkpoint.domain.retention import Candidate, Direction, KeepReason, RetentionPolicy, decide
from longhaul_core.errors import InvalidArgument


def _kept(candidates, policy, head):
    return {d.id: set(d.reasons) for d in decide(candidates, policy, latest={head}) if d.keep}


def _steps(*steps, epoch=1, **fields):
    return [Candidate(id=f"s{step}", step=step, epoch=epoch, **fields) for step in steps]


def test_policy_of_each_kind_keeps_its_own():
    candidates = [
        Candidate("s10", 10, 1, metrics={"loss": 1.0}),
        Candidate("s20", 20, 1),
        Candidate("s30", 30, 1, pinned=True),
        Candidate("s40", 40, 1, leased=True),
        Candidate("s50", 50, 1, metrics={"loss": 2.0}),
        Candidate("s60", 60, 1),
        Candidate("s70", 70, 1),
    ]
    policy = RetentionPolicy(keep_last=1, keep_every_steps=50, milestone_steps=(20,), best_metric="loss", best_count=1)
    assert _kept(candidates, policy, "s70") == {
        "s10": {KeepReason.BEST},
        "s20": {KeepReason.MILESTONE},
        "s30": {KeepReason.PINNED},
        "s40": {KeepReason.LEASED},
        "s50": {KeepReason.EVERY},
        "s70": {KeepReason.LATEST_VERIFIED, KeepReason.LAST},
    }


def test_best_of_a_metric_where_higher_is_better_keeps_the_highest():
    candidates = [Candidate(f"s{n}", n, 1, metrics={"acc": n / 10}) for n in (1, 2, 3)]
    policy = RetentionPolicy(keep_last=1, best_metric="acc", best_count=2, best_direction=Direction.HIGHER)
    assert set(_kept(candidates, policy, "s3")) == {"s2", "s3"}


def test_damaged_newest_leaves_the_last_intact_one_alive():
    candidates = [*_steps(1, 2), Candidate("s3", 3, 1, intact=False)]
    assert set(_kept(candidates, RetentionPolicy(keep_last=1), "s2")) == {"s2"}


def test_head_after_a_roll_back_stays_although_newer_steps_exist():
    assert "s1" in _kept(_steps(1, 2, 3, 4), RetentionPolicy(keep_last=1), "s1")


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 50), st.integers(1, 3), st.booleans(), st.booleans(), st.booleans()),
        min_size=1,
        unique_by=lambda row: row[:2],
    ),
    keep_last=st.integers(1, 3),
    every=st.integers(0, 7),
)
def test_latest_intact_pinned_and_leased_are_never_deleted(rows, keep_last, every):
    candidates = [Candidate(f"{s}-{e}", s, e, intact=i, pinned=p, leased=leased) for s, e, i, p, leased in rows]
    intact = [c for c in candidates if c.intact]
    newest = max(intact, key=lambda c: (c.epoch, c.step), default=None)
    kept = _kept(candidates, RetentionPolicy(keep_last=keep_last, keep_every_steps=every), newest.id if newest else "")
    assert {c.id for c in candidates if c.pinned or c.leased} <= set(kept)
    assert newest is None or newest.id in kept
    assert {c.id for c in sorted(intact, key=lambda c: (c.epoch, c.step))[-keep_last:]} <= set(kept)


def test_policy_with_negative_count_is_refused():
    with pytest.raises(InvalidArgument):
        RetentionPolicy(keep_last=0)
    with pytest.raises(InvalidArgument):
        RetentionPolicy(best_count=1)
