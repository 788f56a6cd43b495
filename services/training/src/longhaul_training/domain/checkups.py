"""Checks of a run's nodes in small groups: which group each pod is checked in, and what the findings mean. Pure.

A node is compared with the others of its run: matrix products 10 % below the median, or a way to the other pod below
half the median, put it in doubt. Nobody is blamed after one round: suspects are checked again with partners that were
found good, and only who fails twice is faulty. (Two rounds with other pairs as DLRover's network check does; cost: two
short epochs.)
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from longhaul_training.domain.checkup_record import Checkup, Finding, NodeReport

GEMM_TOLERANCE = 0.10
# Cores of a machine that other programs share too vary more than GPUs do.
CPU_TOLERANCE = 0.50
BANDWIDTH_SHARE = 0.50
GEMM, ALL_REDUCE, ENDED = "gemm", "all_reduce", "check"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Slots that failed, each with why, and the whole checklist."""

    failed: Mapping[int, str]
    checklist: tuple[Finding, ...]


def pair_up(slots: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Groups of two, the last of three where the number is odd."""
    pairs = [tuple(slots[begin : begin + 2]) for begin in range(0, len(slots), 2)]
    if len(pairs) > 1 and len(pairs[-1]) == 1:
        pairs[-2:] = [pairs[-2] + pairs[-1]]
    return tuple(pairs)


def second_round(
    suspects: Sequence[int], good: Sequence[int], earlier: Iterable[tuple[int, ...]]
) -> tuple[tuple[int, ...], ...]:
    """Groups for the second round: each suspect with a good slot that it has not met, as far as there are such."""
    met = {(a, b) for group in earlier for a in group for b in group}
    free, groups, alone = list(good), [], []
    for suspect in suspects:
        partner = next((slot for slot in free if (suspect, slot) not in met), free[0] if free else None)
        if partner is None:
            alone.append(suspect)
            continue
        free.remove(partner)
        groups.append((suspect, partner))
    return (*groups, *((suspect,) for suspect in alone))


def judge(checkup: Checkup, nodes: Mapping[int, str], reports: Mapping[int, Sequence[NodeReport]]) -> Verdict:
    """Compares what the slots of a checkup found; a slot without a report has failed.

    Args:
        checkup: the round that has ended.
        nodes: node by slot.
        reports: reports by slot, one a rank.
    """
    checked = [slot for group in checkup.groups for slot in group]
    failed: dict[int, str] = {}
    checklist: list[Finding] = []
    gemm = _median_of(reports, GEMM)
    reduce = _median_of(reports, ALL_REDUCE)
    for slot in checked:
        findings = [
            _compared(finding, report.device, gemm, reduce)
            for report in reports.get(slot, ())
            for finding in report.findings
        ]
        if not findings:
            findings = [Finding(nodes[slot], ENDED, False, "the check did not come to its end")]
        checklist += findings
        problems = [f"{finding.check}: {finding.message}" for finding in findings if not finding.passed]
        if problems:
            failed[slot] = "; ".join(sorted(set(problems)))
    return Verdict(failed, tuple(checklist))


def merge_checklist(old: Iterable[Finding], new: Iterable[Finding], nodes: Iterable[str]) -> tuple[Finding, ...]:
    """The newest of each check of each node that is still used; of several ranks' lines the one that failed."""
    wanted = frozenset(nodes)
    lines: dict[tuple[str, str], Finding] = {(line.node, line.check): line for line in old}
    fresh: dict[tuple[str, str], Finding] = {}
    for line in new:
        known = fresh.get((line.node, line.check))
        if known is None or known.passed:
            fresh[line.node, line.check] = line
    return tuple(line for (node, _), line in sorted((lines | fresh).items()) if node in wanted)


def _compared(finding: Finding, device: str, gemm: float, reduce: float) -> Finding:
    """A finding judged against the median of the run's nodes."""
    if finding.check == GEMM:
        return _against(finding, gemm, 1.0 - (CPU_TOLERANCE if device == "cpu" else GEMM_TOLERANCE))
    if finding.check == ALL_REDUCE:
        return _against(finding, reduce, BANDWIDTH_SHARE)
    return finding


def _against(finding: Finding, median: float, least_share: float) -> Finding:
    if not finding.passed or not median or finding.value >= least_share * median:
        return finding
    text = f"{finding.message}, {finding.value / median:.0%} of the run's median"
    return Finding(finding.node, finding.check, False, text, finding.value)


def _median_of(reports: Mapping[int, Sequence[NodeReport]], check: str) -> float:
    values = [f.value for group in reports.values() for r in group for f in r.findings if f.check == check and f.passed]
    return statistics.median(values) if values else 0.0
