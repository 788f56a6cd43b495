"""How often each document is taken: the sampling rules of a build over sources and scores."""

import numpy as np
from longhaul_core.errors import FailedPrecondition

from longhaul_corpus.adapters.workspace import Array, Workspace
from longhaul_corpus.domain.outcomes import Outcome
from longhaul_corpus.domain.sampling import sampled_copies
from longhaul_corpus.domain.spec import SamplingRule


def score_names(workspace: Workspace) -> list[str]:
    """Names of the scores that the build looks at."""
    rules = workspace.spec
    return sorted({rule.score for rule in rules.sampling if rule.score} | {rules.deduplication.keep_score} - {""})


def copies_of(workspace: Workspace, outcomes: Array) -> Array:
    """How often each document is taken, 0 for those sampled away; held-out documents once: uint8[documents].

    Raises:
        FailedPrecondition: a document would be taken more often than the recipe allows (REPEATS_EXCEEDED).
    """
    sources = workspace.column("documents/source", np.uint16)
    factors = np.ones(len(outcomes))
    for rule in workspace.spec.sampling:
        factors[_fits(workspace, rule, sources)] *= rule.repeat
    factors[outcomes != Outcome.TRAIN] = 1.0
    if factors.max() > workspace.spec.maximum_repeats:
        worst = workspace.sources()[int(sources[int(factors.argmax())])]
        raise FailedPrecondition(
            f"The sampling rules would take documents of source {worst!r} {factors.max():g} times; "
            f"{workspace.spec.maximum_repeats:g} are allowed",
            reason="REPEATS_EXCEEDED",
            metadata={"source": worst, "repeats": f"{factors.max():g}"},
            action="Lower the rules that multiply, or raise corpus.maximum_repeats.",
        )
    content = workspace.column("documents/content", np.uint64)
    return sampled_copies(factors, content, workspace.spec.shuffle_seed)


def _fits(workspace: Workspace, rule: SamplingRule, sources: Array) -> Array:
    fits = np.ones(len(sources), dtype=np.bool_)
    if rule.source:
        names = workspace.sources()
        fits &= sources == names.index(rule.source) if rule.source in names else np.False_
    if rule.score:
        scores = workspace.column(f"documents/score-{rule.score}", np.float32)
        fits &= ~np.isnan(scores)
        if rule.minimum is not None:
            fits &= scores >= rule.minimum
        if rule.maximum is not None:
            fits &= scores < rule.maximum
    return fits
