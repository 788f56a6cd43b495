"""Nodes that a run found faulty itself and keeps away from, also where gpuhealth does not take them out. Pure.

gpuhealth may refuse a quarantine (its budget is spent, it does not know the node) or not be there. A node that it did
take is its own affair: it is forgotten here and used again once it is released.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from longhaul_training.domain.checkup_record import Accusation, AccusedNode
from longhaul_training.domain.observations import World
from longhaul_training.domain.states import Control, Run


def accuse(control: Control, now: float, accusations: Iterable[Accusation]) -> Control:
    """The record with accusations that gpuhealth is to hear of, and their nodes to keep away from."""
    told = tuple(accusations)
    nodes = {accusation.node for accusation in told}
    others = tuple(known for known in control.accused if known.node not in nodes)
    accused = others + tuple(AccusedNode(node, now) for node in sorted(nodes))
    return replace(control, accusations=control.accusations + told, accused=accused)


def acquit(accused: tuple[AccusedNode, ...], nodes: Iterable[str]) -> tuple[AccusedNode, ...]:
    """What is left when `nodes` have passed a check since."""
    cleared = frozenset(nodes)
    return tuple(known for known in accused if known.node not in cleared)


def accused_nodes(control: Control, now: float, seconds: float) -> frozenset[str]:
    """Nodes that were accused less than `seconds` ago."""
    return frozenset(a.node for a in control.accused if now - a.at < seconds)


def shunned(run: Run, world: World) -> frozenset[str]:
    """Nodes that the run must keep away from now."""
    return accused_nodes(run.control, world.now, world.limits.accused)


def still_accused(run: Run, world: World) -> tuple[AccusedNode, ...]:
    """Accused nodes that nobody has taken out yet and whose time is not over."""
    return tuple(a for a in run.control.accused if a.node in shunned(run, world) and not _taken_out(a.node, world))


def _taken_out(node: str, world: World) -> bool:
    """Whether somebody decided so; a node that merely died comes back as bad as it was."""
    view = world.nodes.get(node)
    return view is not None and (view.drain is not None or (view.ready and not view.schedulable))
