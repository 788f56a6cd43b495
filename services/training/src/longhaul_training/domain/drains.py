"""Which drain requests are done: nothing of ours is, or can still come, on the node. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from longhaul_training.domain.actions import AcknowledgeDrain
from longhaul_training.domain.observations import NodeView
from longhaul_training.domain.placement import Claim


@dataclass(frozen=True, slots=True)
class DrainProgress:
    """Drain requests to acknowledge now."""

    acknowledgements: tuple[AcknowledgeDrain, ...]


def finished_drains(
    nodes: Mapping[str, NodeView], claims: Iterable[Claim], exempt_pods: Iterable[str]
) -> DrainProgress:
    """Requests of nodes without claims; pods in `exempt_pods` (burn-ins of that very node) don't count."""
    exempt = frozenset(exempt_pods)
    in_use = {claim.node for claim in claims if claim.pod not in exempt}
    return DrainProgress(
        tuple(
            AcknowledgeDrain(node.name, node.drain.session, "no pod of training is on the node")
            for node in sorted(nodes.values(), key=lambda n: n.name)
            if node.drain is not None and node.name not in in_use
        )
    )
