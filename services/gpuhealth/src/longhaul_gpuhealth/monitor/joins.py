"""Which job uses which GPU of a node, told to the engine where that changed."""

from __future__ import annotations

from dataclasses import dataclass, field

from longhaul_gpuhealth.domain.engine import Engine
from longhaul_gpuhealth.domain.jobs import attribute_pods
from longhaul_gpuhealth.monitor.book import NodeBook
from longhaul_gpuhealth.monitor.measures import Measures


@dataclass(slots=True)
class Joins:
    """Joins what exporters say of pods with the pods of the cluster."""

    engine: Engine
    book: NodeBook
    measures: Measures
    _joined: dict[str, object] = field(default_factory=dict)

    def join(self, node: str) -> None:
        """Look at a node again."""
        reported, uses = self.engine.reported_pods(node), self.book.uses(node)
        if self._joined.get(node) != (reported, uses):
            self._joined[node] = reported, uses
            found = attribute_pods(reported, uses)
            self.engine.assign(node, found.jobs)
            self.measures.unattributed_gpus.labels(node).set(found.unattributed)

    def forget(self, node: str) -> None:
        """The node is not looked after here any more."""
        self._joined.pop(node, None)
