"""Which silences of nodes are believed.

While the API server is out of reach of the kubelets it is often out of our reach too, and when it comes back the node
controller first finds every node silent. Nodes that were ready before an outage of the watch are therefore taken for
ready until they had time to report; a node that says itself that it is not ready is believed at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from longhaul_core.clock import Clock
from longhaul_core.cluster.kubernetes.timing import Timing
from longhaul_core.cluster.model import Node


@dataclass(slots=True)
class Readiness:
    """Judges nodes as they are read from the cache."""

    clock: Clock
    timing: Timing
    _ready: set[str] = field(default_factory=set)
    _doubted: set[str] = field(default_factory=set)
    _settled_at: float = float("-inf")

    def observe(self, node: Node) -> None:
        """Take note of a fresh sight of a node."""
        if node.silent_since is None:
            self._doubted.discard(node.name)
            (self._ready.add if node.ready else self._ready.discard)(node.name)
        elif node.name in self._ready and self.clock.monotonic() < self._settled_at:
            self._doubted.add(node.name)
        elif node.name not in self._doubted:
            self._ready.discard(node.name)

    def recovered(self, silence_seconds: float) -> None:
        """The watch hears again after an outage; to be called before what it missed is observed."""
        if silence_seconds >= self.timing.blind:
            self._settled_at = self.clock.monotonic() + self.timing.settle

    def remaining(self) -> float:
        """Seconds for which silences are still doubted."""
        return max(0.0, self._settled_at - self.clock.monotonic())

    def settle(self) -> Iterable[str]:
        """The doubt is over: the nodes whose silence lasted, which are believed silent from now on."""
        lasting = sorted(self._doubted)
        self._ready -= self._doubted
        self._doubted.clear()
        return lasting

    def seen(self, node: Node) -> Node:
        """The node as it is shown."""
        return replace(node, ready=True, silent_since=None) if node.name in self._doubted else node
