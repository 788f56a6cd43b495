"""What became of each document of the datasets, and the check that none is missing."""

from enum import IntEnum

import numpy as np
import numpy.typing as npt
from longhaul_core.errors import Internal


class Outcome(IntEnum):
    """The end of a document; each has exactly one."""

    TRAIN = 0
    VALID = 1
    DUPLICATE = 2
    CONTAMINATED = 3
    SAMPLED_OUT = 4


Outcomes = npt.NDArray[np.uint8]


def count_outcomes(outcomes: Outcomes) -> dict[str, int]:
    """Documents by outcome, in lower case."""
    numbers = np.bincount(outcomes, minlength=len(Outcome))
    return {outcome.name.lower(): int(numbers[outcome]) for outcome in Outcome}


def check_accounting(
    documents_in: int, outcomes: Outcomes, documents_written: int, extra_copies: int = 0, failed: int = 0
) -> None:
    """Raise Internal where documents were lost or doubled between the datasets and the shards.

    Args:
        documents_in: documents of the datasets.
        outcomes: the end of each.
        documents_written: documents in the shards.
        extra_copies: how many of those sampling asked for beyond the first of each.
        failed: documents of shards that were set aside.
    """
    counts = count_outcomes(outcomes)
    expected = counts["train"] + counts["valid"] + extra_copies
    if documents_in != len(outcomes) + failed or expected != documents_written:
        raise Internal(
            f"{documents_in} documents came in, {len(outcomes)} have an outcome, {failed} failed, {expected} should "
            f"be in the shards and {documents_written} are",
            reason="DOCUMENTS_UNACCOUNTED",
        )
