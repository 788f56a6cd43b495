"""The service starts without what its workers compute with: each start, and each idle replica, would pay for it."""

import subprocess
import sys

FOR_WORKERS = {"pyarrow", "numba", "tokenizers", "tiktoken", "polars", "ray", "torch", "datatrove"}


def test_service_loads_nothing_that_only_its_workers_need() -> None:
    program = "import sys, longhaul_corpus.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "longhaul_corpus.servicer" in loaded
    assert not FOR_WORKERS & loaded
