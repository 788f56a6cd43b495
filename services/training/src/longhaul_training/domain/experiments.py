"""Experiments: a baseline and variants of one change each, compared at the same step. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from longhaul_core.errors import InvalidArgument

from longhaul_training.domain.states import RunState

# Near-optimal in the playbook's learning-rate sweeps: within 0.25 % of the best validation loss.
MINIMUM_EFFECT = 0.0025
BASELINE = "baseline"


class ExperimentState(StrEnum):
    """State of an experiment; the last three are terminal."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class Variant:
    """One change of the trainer configuration, by its dotted path."""

    id: str
    path: str
    value: Any


@dataclass(frozen=True, slots=True)
class Arm:
    """What one arm has reached: validation losses by step."""

    id: str
    validation: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Comparison:
    """An arm against the baseline at the last step that both have; negative is better."""

    id: str
    step: int
    validation_loss: float
    difference: float


def apply_variant(config: Mapping[str, Any], variant: Variant) -> dict[str, Any]:
    """The configuration with one value changed; refuses unknown paths and changes that change nothing."""
    changed = copy.deepcopy(dict(config))
    *parents, leaf = variant.path.split(".")
    section: Any = changed
    for name in parents:
        section = section.get(name) if isinstance(section, dict) else None
    if not isinstance(section, dict) or leaf not in section:
        raise _invalid(variant, f"{variant.path!r} is not a path of the trainer configuration")
    if isinstance(section[leaf], dict):
        raise _invalid(variant, f"{variant.path!r} is a whole section: a variant changes one value")
    if section[leaf] == variant.value:
        raise _invalid(variant, f"{variant.path} is {variant.value!r} in the baseline already")
    section[leaf] = variant.value
    return changed


def check_variants(variants: Sequence[Variant]) -> None:
    """Refuses ids that are used twice or taken by the baseline."""
    seen = {BASELINE}
    for variant in variants:
        if variant.id in seen:
            raise _invalid(variant, f"the id {variant.id!r} is used twice")
        seen.add(variant.id)


def compare(baseline: Arm, arms: Sequence[Arm]) -> list[Comparison]:
    """Each arm against the baseline, at the last step for which both have a validation loss."""
    compared = []
    for arm in arms:
        common = sorted(set(baseline.validation) & set(arm.validation))
        if common:
            step = common[-1]
            loss = arm.validation[step]
            compared.append(Comparison(arm.id, step, loss, loss - baseline.validation[step]))
    return compared


def winner(baseline: Arm, comparisons: Sequence[Comparison], minimum_effect: float) -> str:
    """The arm that is best by at least `minimum_effect` of the baseline's loss; empty when none is."""
    better = [
        c
        for c in comparisons
        if c.id != baseline.id and c.difference < 0 and -c.difference >= minimum_effect * baseline.validation[c.step]
    ]
    return min(better, key=lambda c: (c.difference, c.id)).id if better else ""


def experiment_state(arms: Mapping[str, RunState], cancelled: bool) -> ExperimentState:
    """State of an experiment from the states of its runs; without its baseline it has failed."""
    if all(state.terminal for state in arms.values()):
        if cancelled:
            return ExperimentState.CANCELLED
        return ExperimentState.SUCCEEDED if arms[BASELINE] is RunState.SUCCEEDED else ExperimentState.FAILED
    if cancelled:
        return ExperimentState.CANCELLING
    waiting = (RunState.QUEUED, RunState.WAITING_FOR_INPUTS)
    return ExperimentState.QUEUED if all(s in waiting for s in arms.values()) else ExperimentState.RUNNING


def _invalid(variant: Variant, description: str) -> InvalidArgument:
    return InvalidArgument(
        f"variant {variant.id!r}: {description}",
        reason="VARIANT_INVALID",
        violations=[(f"spec.variants[{variant.id}]", description)],
        action="give each variant one path with a value that differs from the baseline",
    )
