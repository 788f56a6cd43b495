"""A task of the test on a Ray cluster."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

DEADLINE_SECONDS = 120.0


def sign_and_wait(payload: dict[str, Any]) -> dict[str, Any]:
    """Tell on which node it runs, wait until the test says go, and sign the texts."""
    import numpy as np
    import ray
    from longhaul_core.engine import report
    from longhaul_corpus.domain.minhash import MinHashParameters, SignatureHasher
    from longhaul_corpus.domain.words import simplified_bytes

    node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "local"
    report({"node": node, "process": os.getpid(), "number": payload["number"]})
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not Path(payload["go"]).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    hasher = SignatureHasher(MinHashParameters())
    signatures = [hasher.signature(simplified_bytes(text)) for text in payload["texts"]]
    return {"bands": np.stack([s.bands for s in signatures if s is not None]).tobytes()}
