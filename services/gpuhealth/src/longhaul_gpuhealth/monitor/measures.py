"""Metrics of the service itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from longhaul_core.metrics import Metrics

from longhaul_gpuhealth.domain.model import HealthState

LATENCY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Measures:
    """What operators and alerts look at."""

    def __init__(self, metrics: Metrics) -> None:
        self.nodes = metrics.gauge("nodes", "Nodes by state.", ("state",))
        self.node_state = metrics.table("node_state", "1 for the state that a node is in.", ("node", "state"))
        self.events = metrics.counter("events", "What was told about nodes, by type and cause.", ("type", "cause"))
        self.actions = metrics.counter("actions", "Marks put on and taken off, by outcome.", ("action", "outcome"))
        self.scrapes = metrics.counter("scrapes", "Scrapes by outcome.", ("outcome",))
        self.scrape_seconds = metrics.histogram("scrape_seconds", "Duration of good scrapes.", (), LATENCY_BUCKETS)
        self.oldest_scrape = metrics.gauge("oldest_scrape_age_seconds", "Age of the oldest node's last good scrape.")
        self.unattributed = metrics.gauge("unattributed_series", "Series of known signals that name no GPU.", ("node",))
        self.unattributed_gpus = metrics.gauge(
            "unattributed_gpus", "GPUs that pods hold without anyone knowing which.", ("node",)
        )
        self.ignored = metrics.counter("ignored_readings", "Readings not newer than the one before.")
        self.latency = metrics.histogram(
            "detection_seconds", "From the sample that shows a fault to the marked node.", (), LATENCY_BUCKETS
        )
        self.breaker_open = metrics.gauge("breaker_open", "1 while the breaker stops all quarantines.")
        self.waiting = metrics.gauge("waiting_quarantines", "Nodes whose quarantine waits.")
        self.shards = metrics.gauge("shards", "Shards of nodes that this replica looks after.")
        self.takeovers = metrics.counter("takeovers", "Shards that this replica took.")
        self.verdicts = metrics.counter("verdicts", "Changes of verdict, by state.", ("state",))
        self.rules_load_failed = metrics.gauge("rules_load_failed", "1 while a newer rules file is not in force.")

    def show_nodes(self, states: Mapping[str, HealthState]) -> None:
        """Show the state of each node, and how many nodes are in each."""
        self.node_state.show({(node, state.value): 1 for node, state in states.items()})
        counts = Counter(states.values())
        for state in HealthState:
            self.nodes.labels(state.value).set(counts[state])
