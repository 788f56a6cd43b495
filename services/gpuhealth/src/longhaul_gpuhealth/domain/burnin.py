"""Burn-ins: what was asked for, what was measured, and whether it holds against the peers. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PEER_SHARE = 0.10
CPU_DEVICE = "cpu"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One figure of one GPU; -1: of the node as a whole. Greater is better."""

    gpu: int
    name: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class BurnIn:
    """A burn-in of a node: asked for, and later reported. `device` names the model; only equals are compared."""

    session: str
    requested_at: float
    author: str
    reported_at: float | None = None
    passed: bool = False
    message: str = ""
    device: str = ""
    measurements: tuple[Measurement, ...] = ()


def below_peers(
    device: str, measurements: Iterable[Measurement], peers: Iterable[BurnIn], share: float = PEER_SHARE
) -> list[str]:
    """Figures that are more than `share` below the best of the same device that passed, its own GPUs included.

    The pretence of a GPU on processors is not compared: it shares them with everything else on the machine.
    """
    mine = list(measurements)
    if device == CPU_DEVICE:
        return []
    best: dict[tuple[str, bool], float] = {}
    known = [one for peer in peers if peer.passed and peer.device == device for one in peer.measurements]
    for one in [*known, *mine]:
        key = one.name, one.gpu < 0
        best[key] = max(one.value, best.get(key, 0.0))
    compared = [(one, best[one.name, one.gpu < 0]) for one in mine]
    return [_words(one, most) for one, most in compared if one.value < (1 - share) * most]


def _words(one: Measurement, best: float) -> str:
    subject = f"GPU {one.gpu}" if one.gpu >= 0 else "the node"
    below = 1 - one.value / best
    return f"{one.name} of {subject} is {one.value:.1f} {one.unit}, {below:.0%} below the best peer's {best:.1f}"
