"""longhaul checkpoint service."""
