"""The report of a run: collected over all services, drawn as one self-contained HTML page."""

from longhaul_client.report.collect import ReportData, collect
from longhaul_client.report.page import render

__all__ = ["ReportData", "collect", "render"]
