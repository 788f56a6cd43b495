"""Where protobuf meets the domain."""

from longhaul_gpuhealth.convert.answers import budget_status, events, rank_comparison, replay_response, rule
from longhaul_gpuhealth.convert.nodes import finding, node_health
from longhaul_gpuhealth.convert.requests import (
    health_state,
    measurements_from,
    node_name,
    override_from,
    run_name,
    sample_from,
)

__all__ = [
    "budget_status",
    "events",
    "finding",
    "health_state",
    "measurements_from",
    "node_health",
    "node_name",
    "override_from",
    "rank_comparison",
    "replay_response",
    "rule",
    "run_name",
    "sample_from",
]
