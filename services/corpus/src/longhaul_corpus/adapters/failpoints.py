"""Where a test may let the service die."""

from enum import StrEnum


class Point(StrEnum):
    """Moments of a build, each between two durable steps; with a count, of whichever item or phase is next then."""

    ITEM_WORKED = "corpus.item-worked"
    ITEM_RECORDED = "corpus.item-recorded"
    PHASE_FINISHED = "corpus.phase-finished"
