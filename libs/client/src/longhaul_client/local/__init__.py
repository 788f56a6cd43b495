"""longhaul on one machine: the services as processes on loopback, pretend nodes, one data folder."""

from longhaul_client.local.control import ProcessStatus, down, status, up
from longhaul_client.local.layout import Layout, UpOptions, load_layout

__all__ = ["Layout", "ProcessStatus", "UpOptions", "down", "load_layout", "status", "up"]
