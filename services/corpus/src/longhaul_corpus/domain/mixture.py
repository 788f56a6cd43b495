"""Weights of the sources, checked against what there is, and how soon each source would repeat."""

import difflib
from collections.abc import Collection, Mapping, Sequence

from longhaul_core.errors import FailedPrecondition, InvalidArgument

from longhaul_corpus.domain.spec import MixtureWeight

WARN_REPEATS = 4
"""Repeated up to four times, data is about as good as new (Muennighoff et al. 2023)."""


def check_sources(mixture: Sequence[MixtureWeight], known: Collection[str]) -> None:
    """Raise InvalidArgument where the mixture names a source that the datasets do not have."""
    for entry in mixture:
        if entry.source not in known:
            near = difflib.get_close_matches(entry.source, sorted(known), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known sources: {', '.join(sorted(known)) or 'none'}"
            raise InvalidArgument(
                f"The mixture names the source {entry.source!r}, which the datasets do not have",
                reason="MIXTURE_SOURCE_UNKNOWN",
                violations=[("mixture", f"unknown source {entry.source!r}")],
                action=hint,
            )


def resolve_weights(mixture: Sequence[MixtureWeight], train_tokens: Mapping[str, int]) -> dict[str, float]:
    """Weights that sum to 1: as asked for, or by size where nothing was asked for.

    Raises:
        FailedPrecondition: a source with a weight has no training tokens (MIXTURE_SOURCE_EMPTY).
    """
    weights = {entry.source: entry.weight for entry in mixture} or {
        source: float(tokens) for source, tokens in train_tokens.items() if tokens
    }
    for source in weights:
        if not train_tokens.get(source):
            raise FailedPrecondition(
                f"The mixture gives source {source!r} a weight, but it has no training tokens",
                reason="MIXTURE_SOURCE_EMPTY",
                metadata={"source": source},
                action="Take the source out of the mixture, or look at the report for why its documents were dropped.",
            )
    total = sum(weights.values())
    return {source: weight / total for source, weight in sorted(weights.items())}


def repeat_table(weights: Mapping[str, float], train_tokens: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """Training tokens at which each source begins to repeat, and at which it has been read `WARN_REPEATS` times."""
    return {
        source: {
            "tokens": train_tokens[source],
            "weight": weight,
            "run_tokens_one_epoch": train_tokens[source] / weight,
            "run_tokens_four_epochs": WARN_REPEATS * train_tokens[source] / weight,
        }
        for source, weight in weights.items()
    }


def check_length(sequence_length: int, train_tokens: int, valid_tokens: int) -> None:
    """Raise FailedPrecondition where a side holds no whole sequence with its targets, which is one token more."""
    for side, tokens in (("training", train_tokens), ("validation", valid_tokens)):
        if tokens < sequence_length + 1:
            raise FailedPrecondition(
                f"A sequence has {sequence_length} tokens, but the {side} side of the token set holds only {tokens}",
                reason="SEQUENCE_TOO_LONG",
                metadata={"sequence_length": str(sequence_length), "tokens": str(tokens), "side": side},
                action="Lower the sequence length, add data, or hold out more documents.",
            )
