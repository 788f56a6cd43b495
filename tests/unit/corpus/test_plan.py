"""Output shards, mixture, phases, specs, sampling: the arithmetic of a build."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from longhaul_core.errors import ErrorCode, FailedPrecondition, Internal, InvalidArgument
from longhaul_corpus.domain.jobs import (
    PhaseProgress,
    build_fraction,
    finished_before,
    remaining_seconds,
    worth_retrying,
)
from longhaul_corpus.domain.layout import FULL_RANGE, cut_shards, key_range
from longhaul_corpus.domain.mixture import check_length, check_sources, repeat_table, resolve_weights
from longhaul_corpus.domain.ordering import SHUFFLE, SPLIT, order_keys
from longhaul_corpus.domain.outcomes import Outcome, check_accounting, count_outcomes
from longhaul_corpus.domain.phases import PHASES, SHARE, Phase, next_phase, phase_items
from longhaul_corpus.domain.sampling import sample_bytes, sample_mixture
from longhaul_corpus.domain.spec import (
    BuildSpec,
    Decontamination,
    Deduplication,
    Holdout,
    MixtureWeight,
    TokenizerTraining,
    check_spec,
)

_DOCUMENTS = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 40)), min_size=1, max_size=60)


@given(_DOCUMENTS, st.integers(10, 200))
@settings(deadline=None)
def test_shards_hold_every_document_once_in_order_and_within_bounds(
    documents: list[tuple[int, int]], bound: int
) -> None:
    keys = np.array([key * (FULL_RANGE // 51) for key, _ in documents], dtype=np.uint64)
    tokens = np.array([count for _, count in documents], dtype=np.int64)
    shards = list(cut_shards("train", "web", keys, tokens, bound))
    ascending = np.sort(keys)
    covered = [key_range(ascending, shard.low, shard.high) for shard in shards]
    assert covered[0].start == 0
    assert covered[-1].stop == len(keys)
    assert all(left.stop == right.start for left, right in itertools.pairwise(covered))
    assert sum(shard.tokens for shard in shards) == tokens.sum()
    for shard, rows in zip(shards, covered, strict=True):
        assert shard.documents == rows.stop - rows.start > 0
        assert shard.tokens <= bound or len(set(ascending[rows].tolist())) == 1


def test_order_depends_on_seed_and_purpose_and_is_spread_evenly() -> None:
    content = np.arange(20_000, dtype=np.uint64)
    keys = order_keys(content, 1, SPLIT)
    assert len(set(keys.tolist())) == len(keys)
    assert (keys != order_keys(content, 2, SPLIT)).all()
    assert (keys != order_keys(content, 1, SHUFFLE)).all()
    bins = np.bincount((keys >> np.uint64(60)).astype(np.int64), minlength=16)
    assert abs(bins - 1250).max() < 5 * np.sqrt(1250)


def test_weights_are_by_size_or_as_asked_for() -> None:
    tokens = {"web": 300, "code": 100, "empty": 0}
    assert resolve_weights((), tokens) == {"code": 0.25, "web": 0.75}
    asked = (MixtureWeight("code", 3.0), MixtureWeight("web", 1.0))
    assert resolve_weights(asked, tokens) == {"code": 0.75, "web": 0.25}


def test_weight_of_a_source_without_tokens_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match="'empty'") as refused:
        resolve_weights((MixtureWeight("empty", 1.0),), {"web": 3, "empty": 0})
    assert refused.value.reason == "MIXTURE_SOURCE_EMPTY"


def test_unknown_source_is_refused_with_the_nearest_known() -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_sources((MixtureWeight("guides", 1.0),), {"guide", "web"})
    assert refused.value.action == "did you mean 'guide'?"


def test_repeat_table_says_when_a_source_begins_to_repeat() -> None:
    table = repeat_table({"web": 0.5, "code": 0.5}, {"web": 1000, "code": 100})
    assert table["code"]["run_tokens_one_epoch"] == 200
    assert table["code"]["run_tokens_four_epochs"] == 800


def test_sequence_longer_than_a_side_is_refused() -> None:
    check_length(99, 100, 100)
    with pytest.raises(FailedPrecondition, match="the validation side of the token set holds only 99") as refused:
        check_length(99, 100, 99)
    assert refused.value.reason == "SEQUENCE_TOO_LONG"


def test_accounting_refuses_lost_and_doubled_documents() -> None:
    outcomes = np.array([Outcome.TRAIN, Outcome.VALID, Outcome.DUPLICATE], dtype=np.uint8)
    assert count_outcomes(outcomes) == {"train": 1, "valid": 1, "duplicate": 1, "contaminated": 0, "sampled_out": 0}
    check_accounting(3, outcomes, 2)
    for documents, written in ((4, 2), (3, 1), (3, 3)):
        with pytest.raises(Internal) as refused:
            check_accounting(documents, outcomes, written)
        assert refused.value.reason == "DOCUMENTS_UNACCOUNTED"


def test_sample_stays_within_its_budget_and_takes_at_least_one() -> None:
    sizes = np.full(100, 10, dtype=np.int64)
    content = np.arange(100, dtype=np.uint64)
    everyone = np.ones(100, dtype=np.bool_)
    assert sample_bytes(everyone, content, sizes, 200, 0).sum() == 20
    assert sample_bytes(everyone, content, sizes, 1, 0).sum() == 1
    assert sample_bytes(everyone, content, sizes, 0, 0).all()


def test_sample_of_a_mixture_follows_its_weights() -> None:
    sizes = np.full(1000, 10, dtype=np.int64)
    sources = np.repeat([0, 1, 2], [500, 400, 100])
    chosen = sample_mixture(
        np.ones(1000, dtype=np.bool_), sources, {0: 1.0, 1: 3.0}, np.arange(1000, dtype=np.uint64), sizes, 2000
    )
    assert [int(chosen[sources == source].sum()) for source in range(3)] == [50, 150, 0]


def spec(**fields: Any) -> BuildSpec:
    defaults: dict[str, Any] = {"datasets": ("projects/p/datasets/d",), "training": TokenizerTraining(512)}
    return BuildSpec(**(defaults | fields))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"datasets": ()}, "datasets"),
        ({"training": None}, "tokenizer"),
        ({"tokenizer": "projects/p/tokenizers/t"}, "tokenizer"),
        ({"training": TokenizerTraining(256)}, "tokenizer.training.vocabulary_size"),
        ({"holdout": Holdout(fraction=1.0)}, "holdout.fraction"),
        ({"decontamination": Decontamination(ngram=3)}, "decontamination.ngram"),
        ({"deduplication": Deduplication(bands=0)}, "deduplication.bands"),
        ({"mixture": (MixtureWeight("a", 0.0),)}, "mixture"),
        ({"mixture": (MixtureWeight("a", 1.0), MixtureWeight("a", 2.0))}, "mixture"),
        ({"sequence_length": -1}, "sequence_length"),
        ({"shard_tokens": -1}, "shard_tokens"),
    ],
)
def test_spec_with_a_wrong_value_is_refused_by_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_spec(spec(**fields))
    assert [violation[0] for violation in refused.value.violations] == [field]


def test_spec_with_defaults_is_good() -> None:
    check_spec(spec())


def test_phases_follow_one_another_and_share_the_whole_time() -> None:
    walked = [Phase.PREPARE]
    while (following := next_phase(walked[-1])) is not None:
        walked.append(following)
    assert tuple(walked) == PHASES
    assert sum(SHARE.values()) == pytest.approx(1.0)


def test_decontamination_without_tasks_or_switched_off_has_no_items() -> None:
    signatures = [{"documents": 5}, {"documents": 6}]
    none: dict[str, Any] = {Phase.SIGNATURES: signatures, Phase.EVALUATION: [{"tasks": []}]}
    some = none | {Phase.EVALUATION: [{"tasks": [{"name": "cloze"}]}]}
    assert phase_items(Phase.DECONTAMINATE, spec(), none) == []
    assert phase_items(Phase.DECONTAMINATE, spec(), some) == [{"shard": 0}, {"shard": 1}]
    assert phase_items(Phase.DECONTAMINATE, spec(decontamination=Decontamination(ngram=0)), some) == []
    assert phase_items(Phase.SETTLE, spec(), some) == [{"tasks": [{"name": "cloze"}], "checked": True}]


def test_fraction_grows_from_phase_to_phase_to_one() -> None:
    fractions = [build_fraction(finished_before(phase), phase, PhaseProgress(1, 2)) for phase in PHASES]
    assert fractions == sorted(fractions)
    assert build_fraction(PHASES[:-1], PHASES[-1], PhaseProgress(3, 3)) == pytest.approx(1.0)


def test_remaining_time_is_told_once_there_is_something_to_tell_from() -> None:
    assert remaining_seconds(10, 0.01) is None
    assert remaining_seconds(10, 0.25) == pytest.approx(30)


def test_only_passing_failures_are_tried_again_and_not_for_ever() -> None:
    assert worth_retrying(ErrorCode.UNAVAILABLE, 2, 3)
    assert not worth_retrying(ErrorCode.UNAVAILABLE, 3, 3)
    assert not worth_retrying(ErrorCode.FAILED_PRECONDITION, 1, 3)
    assert not worth_retrying(ErrorCode.INTERNAL, 1, 3)
    assert worth_retrying(ErrorCode.RESOURCE_EXHAUSTED, 2, 3, worker_ended=True)
    assert not worth_retrying(ErrorCode.RESOURCE_EXHAUSTED, 1, 3)


def test_source_without_documents_on_a_side_has_no_shards() -> None:
    none = np.empty(0, dtype=np.uint64)
    assert list(cut_shards("valid", "web", none, np.empty(0, dtype=np.int64), 1000)) == []


def test_documents_of_files_set_aside_are_counted_as_failed() -> None:
    outcomes = np.array([Outcome.TRAIN, Outcome.VALID, Outcome.DUPLICATE], dtype=np.uint8)
    check_accounting(8, outcomes, 2, failed=5)
    with pytest.raises(Internal, match="8 documents came in, 3 have an outcome, 4 failed"):
        check_accounting(8, outcomes, 2, failed=4)
