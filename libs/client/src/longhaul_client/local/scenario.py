"""The scenario that the GPU exporter plays on a machine without GPUs: by default, all is well."""

from pathlib import Path

import yaml

from longhaul_client.local.layout import UpOptions


def write_healthy_scenario(data_dir: Path, options: UpOptions) -> Path:
    """Write a scenario in which every pretend GPU is healthy, and return its path."""
    path = data_dir / "healthy-scenario.yaml"
    nodes = {f"node-{index}": {"gpus": options.gpus_per_node} for index in range(options.nodes)}
    path.write_text(yaml.safe_dump({"seed": 0, "nodes": nodes}, sort_keys=False))
    return path
