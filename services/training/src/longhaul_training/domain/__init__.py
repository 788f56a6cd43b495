"""longhaul training service."""
