"""Python's garbage collector, where it costs more than it finds."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def importing() -> Iterator[None]:
    """No collection while modules are imported within; what they made is never looked at again.

    Modules, classes and functions live as long as the process, so there is nothing to find, and looking through them
    again and again is a fifth of the time that an import of torch takes. Frozen, they also stay in the pages of memory
    that forked processes share.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
