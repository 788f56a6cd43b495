"""Images are built and run only when asked for: `make test-image`."""

import pytest


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Building takes minutes, root, apt and a package index."""
    return None if "image" in config.getoption("markexpr") else True
