"""Python's garbage collector in a service that has started."""

from __future__ import annotations

import gc

_COLLECT_AFTER = (10_000, 20, 20)
"""Objects made before the youngest are looked at, and how often before older ones are."""


def spare_collector() -> None:
    """Keep what the start has made out of the collector's sight, and let it look less often.

    A full collection stops every call: over the modules and a few hundred records it took 160 ms, every few seconds
    under load. What a service makes is freed by reference counts; cycles come from errors, and can wait.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
