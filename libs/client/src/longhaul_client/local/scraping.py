"""What a Prometheus on this machine has to scrape: the services, the training pods, the pretend GPU exporters."""

import json
from typing import Any

from longhaul_client.local.layout import LOOPBACK, Layout

SCRAPE_SECONDS = 5
TARGETS = "metrics-targets"
"""Folder in which each training pod names its port (the training service tells the pods)."""


def prometheus_config(layout: Layout) -> dict[str, Any]:
    """Return the configuration of a Prometheus for this installation."""
    return {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"},
        "scrape_configs": [
            {
                "job_name": "longhaul",
                "static_configs": [{"targets": sorted(layout.metrics_addresses.values())}],
            },
            {
                "job_name": "longhaul-trainer",
                "file_sd_configs": [
                    {"files": [str(layout.data_dir / TARGETS / "*.json")], "refresh_interval": f"{SCRAPE_SECONDS}s"}
                ],
            },
            *(_exporter(layout, node) for node in layout.node_names()),
        ],
    }


def write_prometheus_config(layout: Layout) -> None:
    """Write it to the data folder as JSON, which is YAML: `prometheus --config.file=DATA/prometheus.yml`."""
    target = layout.data_dir / "prometheus.yml"
    target.write_text(json.dumps(prometheus_config(layout), indent=1))


def _exporter(layout: Layout, node: str) -> dict[str, Any]:
    port = layout.exporter_address.rpartition(":")[2]
    return {
        "job_name": f"gpu-{node}",
        "metrics_path": f"/nodes/{node}/metrics",
        "static_configs": [{"targets": [f"{LOOPBACK}:{port}"]}],
    }
