"""Whether what was read may become a dataset. A silently smaller dataset is worse than a clear failure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from longhaul_ingest.domain.documents import Outcome
from longhaul_ingest.domain.ingestion import Reason
from longhaul_ingest.domain.tally import Tally

FEW_FAILURES: Final = 10
"""Up to so many unreadable records fail no ingestion, whatever their share: a folder may hold three files."""
SHOWN_RULES: Final = 5


def judge(tally: Tally, sources: Sequence[str], maximum_failed_fraction: float) -> Reason | None:
    """Why the ingestion fails; None: it may be committed."""
    tally.check()
    for source in sources:
        if tally.records(source) == 0:
            return _source_empty(source)
    failed = tally.total(Outcome.FAILED)
    if failed > max(maximum_failed_fraction * tally.read, FEW_FAILURES):
        return _too_many_failed(tally, failed, maximum_failed_fraction)
    for source in sources:
        if tally.total(Outcome.KEPT, source) == 0:
            return _nothing_kept(tally, source)
    return None


def _source_empty(source: str) -> Reason:
    return Reason(
        "SOURCE_EMPTY",
        f"Source {source!r} yields no document: its files hold no record.",
        "Check that the source's kind fits its files, or take the source out of the recipe.",
        {"source": source},
    )


def _nothing_kept(tally: Tally, source: str) -> Reason:
    reasons = tally.reasons(source)
    top = ", ".join(f"{rule}: {count}" for rule, count in list(reasons.items())[:SHOWN_RULES])
    read = tally.records(source)
    if tally.total(Outcome.DROPPED, source) == 0:
        return Reason(
            "ALL_DOCUMENTS_FAILED",
            f"Source {source!r}: none of its {read} records could be read ({top}).",
            "Check that the source's kind and field names fit its files.",
            {"source": source, "rules": top},
        )
    return Reason(
        "ALL_DOCUMENTS_FILTERED",
        f"Source {source!r}: all {read} records were filtered away ({top}).",
        "Look at the drop samples, and change or remove the rules that drop most.",
        {"source": source, "rules": top},
    )


def _too_many_failed(tally: Tally, failed: int, limit: float) -> Reason:
    top = ", ".join(
        f"{rule}: {count}" for rule, count in list(tally.reasons(outcome=Outcome.FAILED).items())[:SHOWN_RULES]
    )
    return Reason(
        "TOO_MANY_FAILED",
        f"{failed} of {tally.read} records could not be read ({top}); {limit:.1%} are allowed.",
        "Repair the sources, or raise maximum_failed_fraction if the loss is acceptable.",
        {"failed": str(failed), "read": str(tally.read), "rules": top},
    )
