from __future__ import annotations

import gc

import pytest
from longhaul_core.collector import importing


def test_nothing_is_collected_while_modules_are_imported_and_they_are_frozen_after() -> None:
    before = gc.get_freeze_count()
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > before
    with pytest.raises(ImportError), importing():
        import longhaul_core.no_such_module  # noqa: F401
    assert gc.isenabled()
