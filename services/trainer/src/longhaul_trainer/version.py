"""Which code runs."""

from __future__ import annotations

from importlib import metadata


def code_version() -> str:
    """Version of the installed trainer; ``source`` in a checkout that was not installed."""
    try:
        return metadata.version("longhaul-trainer")
    except metadata.PackageNotFoundError:
        return "source"
